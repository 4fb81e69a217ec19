"""The README's figures of speed are what the committed runs give, and the benches count right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moco_eval.data.sampler import keyed_generator

ROOT = Path(__file__).parent.parent


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, f"tools/{script}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_shows_the_committed_figures_of_speed():
    run("render_speed", "--check")


def test_shuffling_is_measured_by_the_bytes_that_travel(tmp_path):
    file = tmp_path / "numbers.json"
    small = "--ranks 2 --images 4 --size 8 --rounds 1 --json"
    run("bench_shuffle", *small.split(), str(file))
    numbers = json.loads(file.read_text())
    # An image of 3 x 8 x 8 floats has 768 bytes, a key of 8 floats 32. From the other rank come
    # 4 images and 4 keys, 3072 and 128 bytes; in the original's way the keys twice, and on one
    # of two ranks 8 places of 8 bytes: 3072 + 2 * 128 + 64 / 2.
    assert numbers["ranks_2_lean_bytes"] == 3200
    assert numbers["ranks_2_gathered_bytes"] == 3360
    # In ours only the images travel whose place is the other rank's; as many go as come.
    permutation = torch.randperm(8, generator=keyed_generator(0, 0)).tolist()
    num_foreign = sum(image >= 4 for image in permutation[:4])
    assert 0 < num_foreign < 4
    assert numbers["ranks_2_sent_bytes"] == 768 * num_foreign + 128


def test_both_ways_of_a_step_compute_the_same(tmp_path):
    # The bench itself refuses losses that differ, and key encoders that differ in any digit.
    file = tmp_path / "numbers.json"
    small = "--arch resnet10_small --batch 8 --size 16 --rounds 1 --json"
    run("bench_step", *small.split(), str(file))
    numbers = json.loads(file.read_text())
    assert numbers["images_per_s"] == pytest.approx(8 / numbers["step_ours_s"])


def test_fast_features_are_measured_beside_a_plain_loop_that_gives_the_same(tmp_path):
    # The bench itself refuses features that differ.
    file = tmp_path / "numbers.json"
    small = "--arch resnet10_small --batch 8 --size 32 --rounds 1 --json"
    run("bench_features", *small.split(), str(file))
    numbers = json.loads(file.read_text())
    plain, fast = numbers["plain_images_per_s"], numbers["fp32_images_per_s"]
    assert numbers["fp32_ratio"] == pytest.approx(fast / plain)
    assert numbers["fp32_error"] < 1e-5 < numbers["bf16_error"] < 1e-2
