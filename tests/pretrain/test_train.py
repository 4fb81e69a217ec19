from dataclasses import replace

import pytest
import torch
import torchvision

from moco_eval.data.catalog import ImageData, Split, open_images
from moco_eval.errors import CheckpointError, DataError, DivergedError, UsageError
from pretrain import train as training
from pretrain.monitor import read_metrics
from pretrain.recipes import RECIPES
from pretrain.train import Options, train

TINY = replace(
    RECIPES["mocov2-digits"], epochs=3, batch_total=16, queue_size=32, dim=8, image_size=16
)


@pytest.fixture
def digits() -> ImageData:
    """The first 40 training digits: two batches of 16 an epoch, 8 images left over."""
    data = open_images("digits")
    train_split = Split(data.train.images[:40], data.train.labels[:40], "first-40")
    return ImageData("digits-40", data.classes, train_split, data.test)


def run(recipe, data, output, **changes):
    settings = {"name": "tiny", "seed": 0, "options": Options()} | changes
    return train(recipe, data, output=output, **settings)


def tensors(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_checkpoint_has_upstreams_layout(digits, tmp_path):
    root = torch.load(run(TINY, digits, tmp_path), weights_only=True)
    assert {"epoch", "arch", "state_dict", "optimizer"} <= root.keys()
    assert root["epoch"] == 3
    assert root["arch"] == "resnet10_small"
    assert root["state_dict"]["module.queue"].shape == (8, 32)
    assert root["state_dict"]["module.queue_ptr"].tolist() == [0]  # 6 steps of 16 in a queue of 32
    prefixes = {name.split(".")[1] for name in root["state_dict"]}
    assert prefixes == {"encoder_q", "encoder_k", "queue", "queue_ptr"}


def test_the_query_encoder_fills_torchvisions_network_but_for_its_classifier(digits, tmp_path):
    # What upstream's main_lincls.py does with the file: strip the prefix, leave out the projector.
    recipe = replace(TINY, arch="resnet18", epochs=1, warmup_epochs=0)
    prefix, saved = "module.encoder_q.", tensors(run(recipe, digits, tmp_path))
    query = {
        name.removeprefix(prefix): tensor
        for name, tensor in saved.items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}fc")
    }
    message = torchvision.models.resnet18().load_state_dict(query, strict=False)
    assert message.missing_keys == ["fc.weight", "fc.bias"]
    assert message.unexpected_keys == []


def test_an_interrupted_run_ends_as_an_uninterrupted_one(digits, tmp_path, monkeypatch):
    whole = run(TINY, digits, tmp_path / "whole")

    class Killed(Exception):
        """What a kill looks like from inside."""

    real, calls = training.loss_and_top1, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second epoch
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_and_top1", dying)
        with pytest.raises(Killed):
            run(TINY, digits, tmp_path / "cut")
    torch.rand(3)  # the global generator's state is of no importance
    resumed = run(TINY, digits, tmp_path / "cut")
    assert_same(tensors(whole), tensors(resumed))
    steps = [row["step"] for row in read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert steps == list(range(6))


def test_the_number_of_workers_changes_nothing(digits, tmp_path):
    alone = run(TINY, digits, tmp_path / "0")
    with_two = run(TINY, digits, tmp_path / "2", options=Options(num_workers=2))
    assert_same(tensors(alone), tensors(with_two))


def test_another_seed_trains_another_encoder(digits, tmp_path):
    one = tensors(run(TINY, digits, tmp_path / "0"))
    two = tensors(run(TINY, digits, tmp_path / "1", seed=1))
    name = "module.encoder_q.conv1.weight"
    assert not torch.equal(one[name], two[name])


def test_a_finished_run_is_left_alone(digits, tmp_path):
    path = run(TINY, digits, tmp_path)
    before = path.stat().st_mtime_ns
    run(TINY, digits, tmp_path)
    assert path.stat().st_mtime_ns == before


def test_a_folder_of_another_run_is_refused_by_name(digits, tmp_path):
    run(TINY, digits, tmp_path)
    with pytest.raises(UsageError, match=r"another run: lr was 0\.06, now 0\.5"):
        run(replace(TINY, lr=0.5), digits, tmp_path)
    with pytest.raises(UsageError, match="seed was 0, now 4"):
        run(TINY, digits, tmp_path, seed=4)


def test_a_truncated_checkpoint_is_refused(digits, tmp_path):
    path = run(TINY, digits, tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth\.tar"):
        run(TINY, digits, tmp_path)


def test_a_loss_that_is_not_finite_stops_before_the_step(digits, tmp_path):
    with pytest.raises(DivergedError, match=r"The loss is nan at step \d .*smaller lr"):
        run(replace(TINY, lr=1e30, warmup_epochs=0), digits, tmp_path)


def test_fewer_images_than_a_batch_are_refused(digits, tmp_path):
    with pytest.raises(DataError, match="40 training images, fewer than one batch of 64"):
        run(replace(TINY, batch_total=64, queue_size=64), digits, tmp_path)


def test_the_supervised_baseline_learns_its_labels_and_has_torchvisions_layout(digits, tmp_path):
    recipe = replace(
        RECIPES["supervised-digits"], epochs=12, batch_total=20, image_size=16, warmup_epochs=0
    )
    root = torch.load(run(recipe, digits, tmp_path), weights_only=True)
    assert root["state_dict"]["fc.weight"].shape == (10, 128)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_pictures_and_knn_are_left_beside_the_checkpoint(digits, tmp_path):
    run(TINY, digits, tmp_path, options=Options(knn_every=2))
    for name in ("views.png", "loss.png", "knn.png"):
        assert (tmp_path / name).stat().st_size > 1000
    rows = read_metrics(tmp_path / "metrics.jsonl")
    # Every second epoch and the last: steps 3 and 5 of 0..5.
    assert [row["step"] for row in rows if "knn_top1" in row] == [3, 5]
