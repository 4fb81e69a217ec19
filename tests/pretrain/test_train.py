import json
import math
from dataclasses import replace

import pytest
import torch
import torchvision

from moco_eval.data.catalog import open_images
from moco_eval.data.images import to_input
from moco_eval.data.splits import ImageData, Split, TrainingImages, TrainingSplit
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import CheckpointError, DataError, DivergedError, PreemptedError, UsageError
from moco_eval.training.metrics import read_metrics
from moco_eval.training.signals import StopRequest
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
    settings = {"name": "tiny", "seed": 0, "options": Options()}
    return train(recipe, data, output=output, **(settings | changes))


def tensors(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


class StopAfter(StopRequest):
    """Somebody asks to stop while a given step is under way."""

    def __init__(self, step: int) -> None:
        self.left = step

    @property
    def reason(self) -> str:
        self.left -= 1
        return "SIGTERM" if self.left < 0 else ""


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


def test_an_interrupted_run_ends_as_an_uninterrupted_one(digits, tmp_path):
    whole = run(TINY, digits, tmp_path / "whole")
    for step in (2, 1):
        # Asked in the middle of an epoch, and again right after it began anew.
        with pytest.raises(PreemptedError, match="The same command continues"):
            run(TINY, digits, tmp_path / "cut", stop=StopAfter(step))
    torch.rand(3)  # the global generator's state is of no importance
    resumed = run(TINY, digits, tmp_path / "cut")
    assert whole.read_bytes() == resumed.read_bytes()
    steps = [row["step"] for row in read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert steps == list(range(6))


def test_the_number_of_workers_changes_nothing(digits, tmp_path):
    alone = run(TINY, digits, tmp_path / "0")
    with_two = run(TINY, digits, tmp_path / "2", options=Options(num_workers=2))
    assert alone.read_bytes() == with_two.read_bytes()


@pytest.mark.parametrize("option", [{"recompute": True}, {"accumulate": 2}])
def test_saving_memory_changes_no_more_than_rounding(digits, tmp_path, option):
    recipe = replace(TINY, epochs=1)
    plain = tensors(run(recipe, digits, tmp_path / "plain"))
    saving = tensors(run(recipe, digits, tmp_path / "saving", options=Options(**option)))
    for name in plain:
        torch.testing.assert_close(plain[name], saving[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_single_and_not_equal(digits, tmp_path, precision):
    losses = []
    for kind in ("fp32", precision):
        run(replace(TINY, epochs=1, precision=kind), digits, tmp_path / kind)
        losses.append(read_metrics(tmp_path / kind / "metrics.jsonl")[0]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_the_scaler_of_fp16_survives_an_interruption(digits, tmp_path):
    recipe = replace(TINY, precision="fp16")
    whole = run(recipe, digits, tmp_path / "whole")
    with pytest.raises(PreemptedError):
        run(recipe, digits, tmp_path / "cut", stop=StopAfter(2))
    assert whole.read_bytes() == run(recipe, digits, tmp_path / "cut").read_bytes()


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
    with pytest.raises(UsageError, match=r"another run: lr was 0\.24, now 0\.5"):
        run(replace(TINY, lr=0.5), digits, tmp_path)
    with pytest.raises(UsageError, match="seed was 0, now 4"):
        run(TINY, digits, tmp_path, seed=4)
    with pytest.raises(UsageError, match="batch_total was 16, now 8"):
        run(replace(TINY, batch_total=8), digits, tmp_path)
    other = replace(digits, train=replace(digits.train, fingerprint="others"))
    with pytest.raises(DataError, match="data was 'digits-40 first-40', now 'digits-40 others'"):
        run(TINY, other, tmp_path)


def test_a_loss_that_is_not_finite_stops_before_the_step(digits, tmp_path):
    with pytest.raises(DivergedError, match=r"The loss is nan .* at step \d .*smaller lr"):
        run(replace(TINY, lr=1e30, warmup_epochs=0), digits, tmp_path)
    told = json.loads((tmp_path / "diverged.json").read_text())
    assert len(told["images"]) == 16
    assert set(told["images"]) <= set(range(40))


def test_fewer_images_than_a_batch_are_refused(digits, tmp_path):
    with pytest.raises(DataError, match="40 training images, fewer than one batch of 64"):
        run(replace(TINY, batch_total=64, queue_size=64), digits, tmp_path)


def test_what_would_change_the_contrast_is_refused(digits, tmp_path):
    recipe = replace(TINY, mechanism="end-to-end")
    with pytest.raises(UsageError, match="are for MoCo's queue"):
        run(recipe, digits, tmp_path, options=Options(accumulate=2))
    with pytest.raises(UsageError, match="2 virtual ranks of a process cannot be cut into"):
        run(TINY, digits, tmp_path, options=Options(accumulate=4))


def test_images_without_labels_are_enough(digits, tmp_path):
    bare = TrainingImages("bare", (), TrainingSplit(digits.train.images, None, "bare"), None)
    assert run(replace(TINY, epochs=1), bare, tmp_path).exists()
    with pytest.raises(UsageError, match="no labels for the supervised baseline"):
        run(RECIPES["supervised-digits"], replace(bare, train=replace_images(bare, 64)), tmp_path)
    with pytest.raises(UsageError, match="no labelled test images for kNN"):
        run(TINY, bare, tmp_path / "knn", options=Options(knn_every=1))


def replace_images(data, num):
    return replace(data.train, images=(list(data.train.images) * 2)[:num])


def test_the_supervised_baseline_learns_its_labels_and_has_torchvisions_layout(digits, tmp_path):
    recipe = replace(
        RECIPES["supervised-digits"], epochs=12, batch_total=20, image_size=16, warmup_epochs=0
    )
    root = torch.load(run(recipe, digits, tmp_path), weights_only=True)
    assert root["state_dict"]["fc.weight"].shape == (10, 128)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_weights_to_begin_with_are_no_resumption(digits, tmp_path):
    first = str(run(TINY, digits, tmp_path / "first"))
    recipe = replace(TINY, epochs=1, lr=0.0)
    begun = run(recipe, digits, tmp_path / "second", options=Options(init_from=first))
    given, kept = load_encoder(first).tensors(), load_encoder(str(begun)).tensors()
    assert torch.equal(given["layer1.0.conv1.weight"], kept["layer1.0.conv1.weight"])
    assert [row["step"] for row in read_metrics(tmp_path / "second" / "metrics.jsonl")] == [0, 1]
    with pytest.raises(UsageError, match="init_from was"):
        run(recipe, digits, tmp_path / "second")
    with pytest.raises(CheckpointError, match="cannot be begun with"):
        run(TINY, digits, tmp_path / "third", options=Options(init_from="random:resnet18"))


def test_pictures_and_knn_are_left_beside_the_checkpoint(digits, tmp_path, capsys):
    run(TINY, digits, tmp_path, options=Options(knn_every=2, tensorboard=True))
    for name in ("views.png", "loss.png", "knn.png", "embeddings.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())
    rows = read_metrics(tmp_path / "metrics.jsonl")
    # Every second epoch and the last: steps 3 and 5 of 0..5.
    assert [row["step"] for row in rows if "knn_top1" in row] == [3, 5]
    assert all(0 <= row["wait_percent"] <= 100 for row in rows if "wait_percent" in row)
    assert any("wait_percent" in row for row in rows)
    assert "kNN" in capsys.readouterr().out


def test_the_loss_of_a_fresh_queue_is_near_chance(digits, tmp_path):
    # ln(1 + 32) = 3.50 for logits that say nothing; the first step's say little.
    run(replace(TINY, temperature=1.0), digits, tmp_path)
    loss = read_metrics(tmp_path / "metrics.jsonl")[0]["loss"]
    assert loss == pytest.approx(math.log(33), abs=1.2)


def test_one_channel_is_trained_and_evaluated_on_luminance(digits, tmp_path):
    recipe = replace(TINY, epochs=1, in_chans=1)
    path = run(recipe, digits, tmp_path, options=Options(knn_every=1))
    encoder = load_encoder(str(path))
    assert encoder.tensors()["conv1.weight"].shape[1] == 1
    assert encoder.input.mean == pytest.approx((0.3,))
    assert to_input(encoder.input)(digits.test.images[0]).shape == (1, 16, 16)
