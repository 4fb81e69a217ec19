"""A batch file for SLURM: one process a GPU, saved and queued again when the time is up."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --output={name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Five minutes before the end every rank is asked to stop: it saves and exits with 75.
#SBATCH --signal=USR1@300
{partition}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# One process a GPU, without torchrun, which would hide the exit code.
srun bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec moco-pretrain "$@"
' moco-pretrain {command}
code=$?
[ $code -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
"""


def parser() -> argparse.ArgumentParser:
    """The options of ``moco-pretrain slurm`` itself; all others are the run's."""
    options = argparse.ArgumentParser(
        prog="moco-pretrain slurm",
        description="Print a ready sbatch file for a run. All options that are not listed here are "
        "the run's, as moco-pretrain takes them.",
        epilog="example: moco-pretrain slurm --nodes 2 --time 24:00:00 --recipe mocov3-resnet50 "
        "--data imagefolder:/data/imagenet --output runs/mocov3 --workers 10 > run.sbatch",
        allow_abbrev=False,
    )
    add = options.add_argument
    add("--nodes", type=int, default=1, help="machines (default: 1)")
    add("--gpus", type=int, default=8, help="GPUs of each, one process a GPU (default: 8)")
    add("--cpus", type=int, default=12, help="cores of each process (default: 12)")
    add("--time", default="48:00:00", help="until the run is saved and queued again")
    add("--partition", default="", help="where it is queued")
    return options


def batch_file(asked: argparse.Namespace, arguments: Sequence[str], *, name: str) -> str:
    """The text of the batch file.

    Args:
        asked: What ``parser`` returned.
        arguments: Of ``moco-pretrain``.
        name: The job's.
    """
    return TEMPLATE.format(
        name=name,
        nodes=asked.nodes,
        gpus=asked.gpus,
        cpus=asked.cpus,
        time=asked.time,
        partition=f"#SBATCH --partition={asked.partition}\n" if asked.partition else "",
        command=shlex.join(arguments),
    )
