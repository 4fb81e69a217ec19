import json
import resource
import subprocess
import sys

import pytest


def moco_pretrain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pretrain.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_recipes_are_listed():
    done = moco_pretrain("recipes")
    assert done.returncode == 0
    for told in ("mocov3-vit-base", "lr 0.00015 x 4096/256 = 0.0024", "arXiv:2104.02057", "76.7"):
        assert told in done.stdout


def test_help_teaches_by_example():
    done = moco_pretrain("--help")
    assert done.returncode == 0
    assert "moco-pretrain --recipe mocov2-digits --data digits" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--recipe", "mocov2-digit", "--data", "digits"], 2, "Did you mean 'mocov2-digits'?"),
        (["--recipe", "mocov2-digits", "--data", "digit"], 2, "Did you mean 'digits'?"),
        (["--recipe", "mocov2", "--data", "imagefolder:no/such"], 65, "no/such/train/CLASS/*.jpg"),
        (
            ["--recipe", "mocov2-digits", "--data", "digits", "--set", "queue_size=1000"],
            2,
            "not divisible by batch_total = 64",
        ),
        (
            ["--recipe", "mocov2-digits", "--data", "digits", "--set", "learning_rate=1"],
            2,
            "There is no key of recipe 'mocov2-digits' called 'learning_rate'",
        ),
    ],
)
def test_bad_input_gets_one_paragraph_and_leaves_nothing(tmp_path, arguments, code, text):
    output = tmp_path / "out"
    done = moco_pretrain(*arguments, "--output", str(output))
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


def test_an_unwritable_output_folder_exits_74(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    done = moco_pretrain(
        *("--recipe", "mocov2-digits", "--data", "digits", "--set", "epochs=1"),
        *("--output", str(tmp_path / "file" / "out")),
    )
    assert done.returncode == 74
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_is_full_exits_74_and_leaves_no_part_of_a_checkpoint(tmp_path):
    # A limit of 256 KiB a file lets pictures through and stops the checkpoint of 4 MB.
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pretrain.cli", "--recipe", "mocov2-digits"),
            *("--data", "digits", "--output", str(tmp_path / "out"), "--set", "epochs=1"),
            *("--set", "batch_total=512", "--set", "num_ranks=1"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 74, done.stderr
    assert "step-00000002 cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "out" / "status.json").read_text())["state"] == "failed"
    assert not list((tmp_path / "out" / "checkpoints").iterdir())
