"""Every command that README and documentation show runs, on toys where a reader's data would be."""

import importlib.util
import runpy
import shutil
import subprocess
import sys

import documented
import pytest
import toy_world

from moco_eval import cell, cli, recipes
from pretrain import cli as pretrain_cli
from pretrain.recipes import RECIPES as PRETRAINING

COMMANDS = documented.commands()


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """Data, checkpoints and results, written once."""
    folder = tmp_path_factory.mktemp("toys")
    toy_world.write_data(folder / "data")
    toy_world.write_checkpoints(folder / "files")
    return folder, toy_world.write_results(folder / "files")


@pytest.fixture
def sandbox(toys, tmp_path, monkeypatch):
    """A folder that holds what a reader's does, and caches that all these tests share."""
    toys, runs = toys
    shutil.copytree(toys / "files", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(toys / "cache"))
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(toys / "cache"))
    return toys / "data", runs


@pytest.mark.parametrize("command", COMMANDS, ids=[each.place for each in COMMANDS])
def test_a_documented_command_runs(command, sandbox, monkeypatch, capsys):
    data, runs = sandbox
    words = documented.words_of(command, data, runs)
    code = RUNNERS[words[0]](words, data, monkeypatch)
    said = capsys.readouterr()
    for word, (needed, expected, text) in documented.ABSENT.items():
        if any(each.startswith(word) for each in words) and not is_there(needed):
            assert (code, text in said.err) == (expected, True), said.err
            return
    assert code == 0, f"{command.text}\nran as: {' '.join(words)}\n{said.out}{said.err}"
    assert "Traceback" not in said.err


def is_there(name):
    return shutil.which(name) or importlib.util.find_spec(name)


def run_moco_eval(words, data, monkeypatch):
    name, *rest = words[1:]
    # A suite's workers are processes of their own, and know nothing of miniatures.
    if name != "run":
        toy_world.allow_miniatures(monkeypatch)
    if name in cell.IMAGE_PROTOCOLS or name in cell.DENSE_PROTOCOLS:
        words = [*words, *documented.small(recipe_of(name, rest), data)]
    return ended(cli.main, words, monkeypatch)


def recipe_of(name, words):
    """The recipe that the command asks for, as a reader would run it."""
    parsed = cli.parser_of(name).parse_args([word for word in words if word != "--print_config"])
    module = cell.protocol_module(name)
    recipe = parsed.recipe
    if name == "segment":
        recipe = module.recipe_of(parsed.task, recipe)
    return recipes.choose(module.RECIPES, recipe or module.DEFAULT_RECIPE, parsed.set)


def run_moco_pretrain(words, data, monkeypatch):
    toy_world.allow_miniatures(monkeypatch)
    if words[1] not in ("slurm", "recipes"):
        parsed = pretrain_cli.parser().parse_args(words[1:])
        recipe = recipes.choose(PRETRAINING, parsed.recipe, parsed.set)
        words = [*words, *documented.small_pretraining(recipe)]
    return ended(pretrain_cli.main, words, monkeypatch)


def run_make(words, data, monkeypatch):
    """A dry run: what the targets do is what continuous integration does."""
    command = ["make", "-n", *words[1:]]
    return subprocess.run(command, cwd=documented.ROOT, capture_output=True, check=False).returncode


def run_python(words, data, monkeypatch):
    """Without miniatures: tools tell of the sets as they are."""
    monkeypatch.setattr(sys, "argv", words[1:])
    # As Python does for a script.
    monkeypatch.syspath_prepend(str(documented.ROOT / words[1]).rpartition("/")[0])
    try:
        runpy.run_path(str(documented.ROOT / words[1]), run_name="__main__")
    except SystemExit as end:
        print(end.code if isinstance(end.code, str) else "", file=sys.stderr)
        return int(bool(end.code))
    return 0


RUNNERS = {
    "moco-eval": run_moco_eval,
    "moco-pretrain": run_moco_pretrain,
    "make": run_make,
    "python": run_python,
}


def ended(main, words, monkeypatch):
    """The exit code of a program that is called with these words."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_the_documentation_shows_commands():
    assert len(COMMANDS) >= 80


def test_every_line_of_a_block_of_commands_is_one():
    for page, start, language, body in documented.blocks():
        for number, line in enumerate(body.replace("\\\n", " ").splitlines(), start):
            if language == "":
                assert line.startswith(documented.PROGRAMS), f"{page}:{number}: {line}"
            if language == "sh":
                assert line in documented.SETS_UP, f"{page}:{number}: {line}"


def test_nothing_is_replaced_that_no_command_says():
    written = " ".join(command.text for command in COMMANDS)
    assert [word for word in documented.WORDS if word not in written] == []
