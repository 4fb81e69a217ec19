"""What a resumption rests on, and what it refuses."""

import hashlib
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval import distributed
from moco_eval.data.catalog import open_images, open_pretraining
from moco_eval.data.splits import TrainingImages, TrainingSplit
from moco_eval.errors import CheckpointError, DataError, DivergedError, PreemptedError, UsageError
from moco_eval.training.checkpoint import State
from moco_eval.training.signals import StopRequest
from moco_eval.training.update import step as take_step
from pretrain import methods, update
from pretrain.batches import Batch
from pretrain.methods import Position
from pretrain.recipes import RECIPES
from pretrain.train import Options, train

pytestmark = pytest.mark.faults

# 40 images, 2 batches of 16 an epoch, 6 steps; the queue of 48 is not at its begin after 4 of them.
TINY = replace(
    RECIPES["mocov2-digits"], epochs=3, batch_total=16, queue_size=48, dim=8, image_size=16
)
NUM_DONE = 4


def digits():
    data = open_images("digits")
    return TrainingImages("digits-40", (), TrainingSplit(data.train.images[:40], None, "40"), None)


class StopAfter(StopRequest):
    def __init__(self, step):
        self.left = step

    @property
    def reason(self):
        self.left -= 1
        return "SIGTERM" if self.left < 0 else ""


def run(output, *, data=None, recipe=TINY, stop=None, seed=0):
    return train(
        recipe,
        data or digits(),
        name="tiny",
        output=output,
        seed=seed,
        options=Options(),
        stop=stop or StopRequest(),
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after four of its six steps."""
    output = tmp_path_factory.mktemp("stopped")
    with pytest.raises(PreemptedError, match="after step 4 of 6"):
        run(output, stop=StopAfter(NUM_DONE - 1))
    return output


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole")).read_bytes()


@pytest.fixture
def resumed(stopped, tmp_path):
    """Continue the stopped run with a checkpoint that ``change`` was applied to; its last bytes."""

    def resume(change):
        output = tmp_path / "run"
        shutil.copytree(stopped, output)
        path = output / "checkpoints" / f"step-{NUM_DONE:08d}" / "checkpoint.pth.tar"
        root = torch.load(path, weights_only=True)
        change(root)
        torch.save(root, path)
        manifest = json.loads(path.with_name("manifest.json").read_text())
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["files"][path.name] = {"size": path.stat().st_size, "sha256": sha256}
        path.with_name("manifest.json").write_text(json.dumps(manifest))
        return run(output).read_bytes()

    return resume


def forget(*words):
    """Put back what the tensors whose name holds one of the words were before the first step."""

    def change(root):
        model = methods.build(TINY, num_images=40, num_classes=0, seed=0)
        fresh = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        names = [name for name in fresh if any(word in name for word in words)]
        assert any(not torch.equal(fresh[name], root["state_dict"][name]) for name in names)
        root["state_dict"] |= {name: fresh[name] for name in names}

    return change


def forget_momentum(root):
    assert root["optimizer"]["state"]
    root["optimizer"]["state"] = {}


def test_a_checkpoint_that_keeps_all_ends_as_the_run_that_never_stopped(resumed, whole):
    assert resumed(lambda root: None) == whole


@pytest.mark.parametrize(
    "change",
    [
        forget("encoder_q.conv", "encoder_q.layer", "encoder_q.fc"),
        forget("encoder_k.conv", "encoder_k.layer", "encoder_k.fc"),
        forget("module.queue"),
        forget("queue_ptr"),
        forget("running_mean"),
        forget("running_var"),
        forget("num_batches_tracked"),
        forget_momentum,
    ],
    ids=["query", "key", "queue", "pointer", "means", "variances", "counts", "optimizer"],
)
def test_nothing_that_a_checkpoint_keeps_could_be_left_out(resumed, whole, change):
    assert resumed(change) != whole


@pytest.mark.parametrize("name", ["queue_ptr", "encoder_k.conv1.weight", "encoder_q.bn1.bias"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_its_name(resumed, name):
    with pytest.raises(CheckpointError, match=name):
        resumed(lambda root: root["state_dict"].pop(f"module.{name}"))


def test_a_checkpoint_that_lacks_the_optimizer_is_refused(resumed):
    with pytest.raises(CheckpointError, match="does not hold this run's state"):
        resumed(lambda root: root.pop("optimizer"))


def test_a_checkpoint_of_another_step_than_its_folder_is_refused(resumed):
    with pytest.raises(CheckpointError, match="says that it is of step 2"):
        resumed(lambda root: root.update(step=2))


def test_a_checkpoint_that_lacks_the_schedule_or_the_seed_is_refused_by_name(resumed, tmp_path):
    with pytest.raises(UsageError, match="schedule was None, now 'cosine'"):
        resumed(lambda root: root["moco_eval"]["config"].pop("schedule"))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UsageError, match="seed was None, now 0"):
        resumed(lambda root: root["moco_eval"].pop("seed"))


def test_another_recipe_is_refused_with_each_key_and_both_values(stopped):
    # The augmentation first: it also decides what the encoder is fed with.
    other = replace(TINY, queue_size=32, lr=0.5, temperature=0.1, views="mocov2")
    with pytest.raises(UsageError, match="belongs to another run") as caught:
        run(stopped, recipe=other)
    assert caught.value.exit_code == 2
    for told in (
        "lr was 0.24, now 0.5",
        "queue_size was 48, now 32",
        "temperature was 0.2, now 0.1",
        "views was 'digits', now 'mocov2'",
    ):
        assert told in str(caught.value)
    assert "batch_total" not in str(caught.value)
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        run(stopped, seed=1)


@pytest.fixture
def folder(tmp_path):
    draw, root = np.random.RandomState(0), tmp_path / "images"
    root.mkdir()
    for number in range(20):
        pixels = draw.randint(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02}.png")
    return root


def remove(root: Path) -> None:
    (root / "07.png").unlink()


def add(root: Path) -> None:
    shutil.copy(root / "07.png", root / "20.png")


def grow(root: Path) -> None:
    with (root / "07.png").open("ab") as file:
        file.write(b"9")


@pytest.mark.parametrize("change", [remove, add, grow])
def test_other_images_are_refused_with_65(folder, tmp_path, monkeypatch, change):
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(tmp_path / "cache"))
    recipe, output = replace(TINY, epochs=2, warmup_epochs=0), tmp_path / "run"
    with pytest.raises(PreemptedError):
        run(output, data=open_pretraining(f"folder:{folder}"), recipe=recipe, stop=StopAfter(0))
    change(folder)
    with pytest.raises(DataError, match=r"data was 'folder.* now 'folder") as caught:
        run(output, data=open_pretraining(f"folder:{folder}"), recipe=recipe)
    assert caught.value.exit_code == 65


def one_update(output):
    """One update of two ranks; the second one's queries hold a value that is not a number."""
    rank = distributed.rank()
    model = methods.build(TINY, num_images=40, num_classes=0, seed=0).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    state = State(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    queries, keys = torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
    if rank == 1:
        queries[3, 0, 5, 5] = math.nan
    samples = torch.arange(8) + 20 * rank
    batch = Batch([queries, keys], samples, torch.zeros(8, dtype=torch.long))
    position = Position(TINY, 0, 3, 2)
    before = [p.detach().clone() for p in model.encoder_q.parameters()]
    told = update.backward(state, batch, None, position)
    own_is_finite = math.isfinite(told[0])
    agreed = update.agree(state, told, batch, is_stopped=False)
    try:
        update.require_finite(agreed, batch, position, output)
        take_step(state, position.lr)
        error = ""
    except DivergedError as caught:
        error = str(caught)
    after = model.encoder_q.parameters()
    is_kept = all(torch.equal(p, kept) for p, kept in zip(after, before, strict=True))
    return own_is_finite, is_kept, error, os.getpid()


def test_what_is_not_finite_on_one_rank_stops_both_before_the_step(on_ranks, tmp_path):
    (finite_0, kept_0, error_0, pid_0), (finite_1, kept_1, error_1, pid_1) = on_ranks(
        2, one_update, tmp_path
    )
    assert pid_0 != pid_1
    # The first rank's own loss is a number: only together do they know.
    assert (finite_0, finite_1) == (True, False)
    assert kept_0
    assert kept_1
    assert error_0 == error_1
    assert "The loss is nan" in error_0
    assert "no update was made" in error_0
    told = json.loads((tmp_path / "diverged.json").read_text())
    assert told["step"] == 3
    assert told["images"] == [*range(8), *range(20, 28)]
