"""A detector's run from its encoder to its detections: killed, stopped, damaged, and on ranks."""

import dataclasses
import json
import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
import torch

from moco_eval import cli, detect, distributed
from moco_eval.engines import loop, transfer
from moco_eval.engines.examples import Detections
from moco_eval.errors import UsageError

ENGINE = "torchvision"
NUM_STEPS = 30


@pytest.fixture
def recipe(tiny_recipe):
    """So many updates that something is found."""
    return dataclasses.replace(tiny_recipe, num_iterations=NUM_STEPS)


def evaluate(encoder, recipe, data, folder, engine=ENGINE):
    run = {"seed": 0, "work_dir": folder, "engine": engine}
    return detect.evaluate(encoder, recipe, data, **run).metrics


def kill_when_called(module, name, count, number=signal.SIGKILL):
    """Let this process be killed when a function is called for so many times."""
    function, calls = getattr(module, name), []

    def counting(*arguments, **more):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return function(*arguments, **more)

    setattr(module, name, counting)


def evaluate_until_killed(arguments, module, name, count):
    # Every full row of losses is saved after.
    loop.SAVE_EVERY_S = 0.0
    kill_when_called(module, name, count)
    evaluate(*arguments)


def exit_code_of(work, *arguments):
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture
def uninterrupted(make_encoder, recipe, tiny_data, tmp_path):
    """Detections as bytes and metrics of a run that was left alone."""
    metrics = evaluate(make_encoder(), recipe, tiny_data, tmp_path / "whole")
    assert metrics["AP"] > 0
    return (tmp_path / "whole" / "detections.json").read_bytes(), metrics


# In an update, when the checkpoint is written, among BatchNorm's batches, and in the third image.
KILLED_AT = {
    "update": (loop.update, "step", 25, "step-00000020"),
    "saving": (torch, "save", 2, "step-00000020"),
    "statistics": (loop, "update_statistics", 1, "step-00000030"),
    "detecting": (transfer, "as_results", 3, "step-00000031"),
}


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_killed_run_ends_with_the_very_same_detections(
    moment, uninterrupted, make_encoder, recipe, tiny_data, tmp_path
):
    folder, (module, name, count, newest) = tmp_path / "killed", KILLED_AT[moment]
    arguments = (make_encoder(), recipe, tiny_data, folder)
    code = exit_code_of(evaluate_until_killed, arguments, module, name, count)
    assert code == -signal.SIGKILL
    assert not (folder / "detections.json").exists()
    assert max(path.name for path in (folder / "checkpoints").glob("step-*")) == newest
    metrics = evaluate(*arguments)
    assert (folder / "detections.json").read_bytes() == uninterrupted[0]
    assert metrics == uninterrupted[1]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [19, 29]


# Detectron2's structures predate today's numpy and torch.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.detectron2
def test_a_killed_run_of_detectron2_ends_with_the_very_same_detections(
    make_encoder, recipe, tiny_data, tmp_path
):
    recipe = dataclasses.replace(recipe, masks=True)
    whole = (make_encoder(), recipe, tiny_data, tmp_path / "whole", "detectron2")
    killed = (make_encoder(), recipe, tiny_data, tmp_path / "killed", "detectron2")
    metrics = evaluate(*whole)
    assert metrics["AP"] > 0
    code = exit_code_of(evaluate_until_killed, killed, loop.update, "step", 25)
    assert code == -signal.SIGKILL
    assert evaluate(*killed) == metrics
    first, second = ((run[3] / "detections.json").read_bytes() for run in (whole, killed))
    assert first == second


def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_is_taken(
    uninterrupted, make_encoder, recipe, tiny_data, tmp_path, capsys
):
    folder = tmp_path / "killed"
    arguments = (make_encoder(), recipe, tiny_data, folder)
    exit_code_of(evaluate_until_killed, arguments, transfer, "as_results", 3)
    newest = folder / "checkpoints" / "step-00000031"
    file = next(newest.glob("*.tar"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    metrics = evaluate(*arguments)
    said = capsys.readouterr().out
    assert "another sha256 than was written); put aside as step-00000031.corrupt" in said
    assert (folder / "detections.json").read_bytes() == uninterrupted[0]
    assert metrics == uninterrupted[1]


def test_a_run_whose_weights_were_kept_is_not_trained_again(
    uninterrupted, make_encoder, recipe, tiny_data, tmp_path, monkeypatch
):
    folder = tmp_path / "whole"
    assert {path.name for path in folder.iterdir()} == {
        *("model.pth", "detections.json", "metrics.jsonl", "tensorboard", "trained.json")
    }
    (folder / "detections.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "fit", None)
        metrics = evaluate(make_encoder(), recipe, tiny_data, folder)
    assert metrics == uninterrupted[1]
    assert (folder / "detections.json").read_bytes() == uninterrupted[0]
    # Another recipe's weights are not taken for this one's.
    longer = dataclasses.replace(recipe, num_iterations=NUM_STEPS + 1)
    evaluate(make_encoder(), longer, tiny_data, folder)
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == NUM_STEPS


def run_command(arguments, module, name, count):
    if module:
        kill_when_called(module, name, count, signal.SIGTERM)
    sys.argv = ["moco-eval", *arguments]
    cli.main()


@pytest.mark.parametrize(
    ("module", "name", "count"), [(loop.update, "step", 12), (transfer, "as_results", 3)]
)
def test_a_stopped_command_exits_with_75_and_then_with_0(coco_folder, module, name, count):
    half = f"{coco_folder / 'images'}:{coco_folder / 'all.json'}"
    small = (
        *("num_iterations=20", "lr_drops=[]", "batch_total=2", "precise_bn_batches=1"),
        *("short_sides_train=[48]", "short_side_test=48", "rpn_post_nms=[20,20]"),
    )
    command = ["detect", "random:resnet10_small", "--data", f"coco:{half}:{half}"]
    command += ["--engine", ENGINE, "--results", str(coco_folder / "results")]
    command += ["--work", str(coco_folder / "work")]
    command += [word for each in small for word in ("--set", each)]
    assert exit_code_of(run_command, command, module, name, count) == 75
    assert exit_code_of(run_command, command, None, "", 0) == 0


def test_another_run_does_not_continue_what_one_began(make_encoder, recipe, tiny_data, tmp_path):
    encoder = make_encoder()
    kept = (encoder, recipe, tiny_data.train)
    short = dataclasses.replace(recipe, num_iterations=1, precise_bn_batches=0)

    def train(encoder, recipe, scenes, seed=0):
        detector, _ = transfer.build_detector(encoder, recipe, tiny_data, engine=ENGINE, seed=seed)
        transfer.train(detector, encoder, recipe, scenes, seed=seed, work_dir=tmp_path)

    train(encoder, short, tiny_data.train)
    with pytest.raises(UsageError, match="belongs to another run: lr was"):
        train(encoder, dataclasses.replace(short, lr=0.5), tiny_data.train)
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        train(encoder, short, tiny_data.train, seed=1)
    other = make_encoder()
    with torch.no_grad():
        other.network.conv1.weight.mul_(2)
    with pytest.raises(UsageError, match="encoder was"):
        train(other, short, tiny_data.train)
    assert kept[0].tensor_sha256() == encoder.tensor_sha256()


class Finder(torch.nn.Module):
    """Finds in an image what its first pixel says: as many boxes as its red value's last digit."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def detect(self, example):
        count = int(example.pixels[0, 0, 0]) % 10
        boxes = torch.arange(4.0 * count).reshape(count, 4)
        return Detections(
            boxes=boxes, scores=torch.ones(count), labels=torch.zeros(count, dtype=torch.int64)
        )


def detect_on_a_rank(recipe, scenes, folder, num_workers):
    own = folder / f"rank-{distributed.rank()}"
    results = transfer.detect(Finder(), recipe, scenes, work_dir=own, num_workers=num_workers)
    return results, (own / "detections.json").exists()


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (1, 2), (2, 0), (3, 1)])
def test_each_scene_counts_once_on_any_number_of_ranks(
    on_ranks, tiny_data, recipe, tmp_path, world_size, num_workers
):
    # Ten scenes are dealt to three ranks as four, three and three.
    told = on_ranks(world_size, detect_on_a_rank, recipe, tiny_data.test, tmp_path, num_workers)
    expected = []
    for scene in tiny_data.test.scenes:
        count = int(np.asarray(scene.image())[0, 0, 0]) % 10
        expected += [(scene.image_id, 3, [4.0 * k, 4.0 * k + 1, 2.0, 2.0]) for k in range(count)]
    for results, _ in told:
        found = [(each["image_id"], each["category_id"], each["bbox"]) for each in results]
        assert found == expected
    # The first rank alone writes them.
    assert [is_written for _, is_written in told] == [True] + [False] * (world_size - 1)


def evaluate_on_a_rank(encoder, recipe, data, folder):
    detector, _ = transfer.build_detector(encoder, recipe, data, engine=ENGINE, seed=0)
    details = transfer.train(detector, encoder, recipe, data.train, seed=0, work_dir=folder)
    results = transfer.detect(detector, recipe, data.test, work_dir=folder)
    return detector.state_dict(), results, details


def test_two_ranks_train_one_detector(on_ranks, make_encoder, recipe, tiny_data, tmp_path):
    first, second = on_ranks(2, evaluate_on_a_rank, make_encoder(), recipe, tiny_data, tmp_path)
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name
    assert first[1] == second[1] == json.loads((tmp_path / "detections.json").read_text())
    assert first[2]["final_losses"]["loss_cls"] < 1.1
