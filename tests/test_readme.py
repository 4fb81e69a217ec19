"""The README promises nothing that is not there."""

import re
import shlex
from pathlib import Path

import pytest

from moco_eval import cli
from moco_eval.suite import protocol_module
from pretrain import cli as pretrain_cli
from pretrain import slurm

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL))
COMMANDS = [
    line for line in BLOCKS.splitlines() if line.startswith(("moco-eval ", "moco-pretrain "))
]


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_is_understood(line):
    program, *arguments = shlex.split(line, comments=True)
    if arguments == ["recipes"]:
        assert pretrain_cli.list_recipes()
    elif program == "moco-pretrain":
        if arguments[0] == "slurm":
            arguments = slurm.parser().parse_known_args(arguments[1:])[1][:-2]
        parsed = pretrain_cli.parser().parse_args(arguments)
        assert parsed.recipe in pretrain_cli.RECIPES
    else:
        name, *rest = arguments
        parsed = cli.parser_of(name).parse_args(rest)
        if parsed.get("recipe"):
            assert parsed.recipe in protocol_module(name).RECIPES


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", BLOCKS, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_named_files_and_folders_exist():
    for name in re.findall(r"`((?:moco_eval|pretrain|tests|results|tools)/[\w./]*)`", TEXT):
        assert (ROOT / name).exists(), name
