"""What SLURM is given."""

import os
import subprocess
import sys
from pathlib import Path

from pretrain import slurm

ROOT = Path(__file__).parents[2]


def batch_file(*own, run=("--recipe", "mocov3-vit-small", "--output", "runs/it's mine")):
    asked = slurm.parser().parse_args([*own])
    return slurm.batch_file(asked, run, name="pretrain-mocov3-vit-small")


def test_a_batch_file_asks_for_what_the_options_say():
    text = batch_file("--nodes", "2", "--gpus", "4", "--partition", "long", "--time", "8:00:00")
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --partition=long",
        "#SBATCH --time=8:00:00",
        "#SBATCH --signal=USR1@300",
        "#SBATCH --requeue",
    ):
        assert f"\n{line}\n" in text
    assert "partition" not in batch_file()


def test_a_batch_file_runs_quotes_and_queues_again_after_75_alone(tmp_path):
    # Stand-ins for SLURM's commands: srun runs its task once, as rank 1 of 8.
    for name, script in {
        "scontrol": 'echo "$@" >> told; [ $1 = show ] && echo node-a',
        "srun": 'SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=8 "$@"',
        "moco-pretrain": 'printf "%s\\n" $RANK/$WORLD_SIZE $MASTER_ADDR "$@" > ran; exit $CODE',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job").write_text(batch_file())
    checked = subprocess.run(["bash", "-n", "job"], cwd=tmp_path, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    environment["SLURM_JOB_NODELIST"] = "node-[a-b]"
    for code, requeued in ((0, []), (70, []), (75, ["requeue 42"])):
        (tmp_path / "told").unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "job"], cwd=tmp_path, env=environment | {"CODE": str(code)}, check=False
        )
        assert done.returncode == code
        told = (tmp_path / "told").read_text().splitlines()
        assert [line for line in told if line.startswith("requeue")] == requeued
    expected = ["1/8", "node-a", "--recipe", "mocov3-vit-small", "--output", "runs/it's mine"]
    assert (tmp_path / "ran").read_text().splitlines() == expected


def test_a_batch_file_for_an_unknown_recipe_is_refused():
    command = [sys.executable, "-m", "pretrain.cli", "slurm", "--recipe", "nosuch"]
    command += ["--data", "digits", "--output", "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert "There is no recipe 'nosuch'" in done.stderr
    assert done.stdout == ""
