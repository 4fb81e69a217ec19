"""Checkpoints and suites, small enough to be run as a whole."""

import os
import subprocess
import sys

import pytest
import torch

from moco_eval.encoders.load import load_encoder

HINTS = {"arch": "resnet10_small", "input": "half,size=8"}


@pytest.fixture
def write_checkpoint():
    """``write_checkpoint(path, seed=0)``: random weights, for ``HINTS``."""

    def write(path, *, seed=0):
        network = load_encoder(f"random:resnet10_small@{seed}").network
        torch.save(network.state_dict(), path)

    return write


@pytest.fixture
def start(tmp_path):
    """``start(*arguments)``: ``moco-eval run`` in ``tmp_path``, with what it prints to be read."""
    started = []

    def run(*arguments, **options):
        command = [sys.executable, "-m", "moco_eval.cli", "run", *arguments]
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
