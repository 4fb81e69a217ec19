"""What reaches a step, whatever the workers, the ranks and the damaged files."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image

from moco_eval.data.catalog import open_images
from moco_eval.data.decoding import DAMAGES, DamagedImageError
from moco_eval.data.sampler import EpochBatches
from moco_eval.data.splits import ImageData, Split
from moco_eval.errors import DataError
from moco_eval.training.signals import StopRequest
from pretrain.batches import Batch, Batches, DamagedImages, Views
from pretrain.recipes import RECIPES
from pretrain.train import Options, train
from pretrain.views import augmentation

TINY = replace(
    RECIPES["mocov2-digits"], epochs=3, batch_total=16, queue_size=32, dim=8, image_size=16
)
DRAWING = augmentation("digits", 16)


class Shades:
    """Images of one grey value each; some cannot be decoded, some never end."""

    def __init__(self, num, *, damaged=(), pids=None):
        self.num, self.damaged, self.pids = num, damaged, pids

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        if self.pids:
            self.pids.write_text(str(os.getpid()))
            time.sleep(60)
        if index in self.damaged:
            raise DamagedImageError("It is empty.", kind="empty")
        return Image.new("L", (8, 8), 4 * index)

    def name_of(self, index):
        return f"shade-{index}.png"


def batches(images, batch_total=4, *, steps, num_workers=0):
    return Batches(
        Views(images, DRAWING, seed=5),
        batch_total,
        steps=steps,
        num_workers=num_workers,
        device="cpu",
    )


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")
def test_a_run_ends_the_same_for_each_number_of_workers(tmp_path):
    data = open_images("digits")
    split = Split(data.train.images[:40], data.train.labels[:40], "first-40")
    digits = ImageData("digits-40", data.classes, split, data.test)
    final = []
    for num in (0, 1, 2, 4):
        options, output = Options(num_workers=num), tmp_path / str(num)
        settings = {"output": output, "seed": 0, "options": options, "stop": StopRequest()}
        final.append(train(TINY, digits, name="tiny", **settings).read_bytes())
    assert len(set(final)) == 1


@pytest.mark.faults
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_see_what_one_alone_sees_in_its_order(world_size):
    # 83 images, 10 batches of 8 an epoch: 3 are left over. From the middle of one epoch to another.
    steps = range(7, 25)
    alone = list(EpochBatches(83, 8, seed=3, steps=range(25)))[7:]
    shares = [
        list(EpochBatches(83, 8, seed=3, steps=steps, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [len(share) for share in shares] == [18] * world_size
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == alone
    # No image twice in an epoch: steps 10 to 19 are the whole second one.
    second = [image for batch in alone[3:13] for image in batch]
    assert {epoch for epoch, _ in second} == {1}
    assert len(set(second)) == 80


@pytest.mark.faults
def test_an_image_looks_the_same_on_whichever_rank_and_after_a_resumption():
    views = Views(Shades(12), DRAWING, seed=5)
    seen = {}
    for world_size in (1, 2, 4):
        for rank in range(world_size):
            share = EpochBatches(12, 4, seed=5, steps=range(1, 5), rank=rank, world_size=world_size)
            for index in (index for batch in share for index in batch):
                drawn = torch.stack(views[index][:-1])
                assert torch.equal(seen.setdefault(index, drawn), drawn)
    assert len(seen) == 16


def test_a_damaged_image_has_the_same_substitute_wherever_and_whenever():
    damaged = (3, 4, 5, 6, 7, 8, 9)
    views = Views(Shades(12, damaged=damaged), DRAWING, seed=5)
    first = {image: torch.stack(views[0, image][:-1]) for image in range(12)}
    for image in reversed(range(12)):
        torch.rand(1)
        assert torch.equal(torch.stack(views[0, image][:-1]), first[image])
    marks = {image: views[0, image][-1].tolist() for image in range(12)}
    # The image keeps its own number, so that what is counted is it and not its substitute.
    kind = 1 + DAMAGES.index("empty")
    assert marks == {image: [image, kind if image in damaged else 0] for image in range(12)}
    shown = [
        list(zip(batch.samples.tolist(), batch.views[0], strict=True))
        for batch in batches(Shades(12, damaged=damaged), steps=range(3), num_workers=2)
    ]
    assert all(torch.equal(view, first[image][0]) for batch in shown for image, view in batch)
    assert sum(map(len, shown)) == 12


def test_images_that_cannot_be_replaced_end_the_run():
    with pytest.raises(DataError, match=r"^Image \d and 19 substitutes in a row cannot be decoded"):
        list(batches(Shades(4, damaged=range(4)), steps=range(1)))


def test_an_error_in_a_worker_keeps_its_class_and_its_words():
    with pytest.raises(DataError, match=r"^Image \d and 19 substitutes in a row cannot be decoded"):
        list(batches(Shades(4, damaged=range(4)), steps=range(1), num_workers=1))


def test_damaged_images_are_listed_once_by_kind_until_there_are_too_many(tmp_path):
    empty, corrupt = 1 + DAMAGES.index("empty"), 1 + DAMAGES.index("corrupt")

    def batch(*pairs):
        samples, damage = torch.tensor(pairs).T
        return Batch([], samples, damage)

    damaged = DamagedImages(tmp_path, Shades(12), max_bad=2)
    damaged.note(batch((1, 0), (2, 0)), 0)
    assert not (tmp_path / "bad_images.jsonl").exists()
    damaged.note(batch((1, 0), (2, empty), (3, 0)), 1)
    damaged.note(batch((2, empty), (7, corrupt)), 2)
    rows = [json.loads(row) for row in (tmp_path / "bad_images.jsonl").read_text().splitlines()]
    expected = [
        {"image": "shade-2.png", "damage": "empty"},
        {"image": "shade-7.png", "damage": "corrupt"},
    ]
    assert rows == expected
    # A resumed run knows the first two; the third is one too many, and is listed nevertheless.
    resumed = DamagedImages(tmp_path, Shades(12), max_bad=2)
    resumed.note(batch((2, empty)), 1)
    with pytest.raises(DataError, match="3 images are damaged, more than --max-bad 2"):
        resumed.note(batch((2, empty), (9, empty)), 2)
    assert len((tmp_path / "bad_images.jsonl").read_text().splitlines()) == 3


@pytest.mark.faults
def test_the_death_of_a_worker_is_raised_where_images_are_waited_for_and_nowhere_else():
    others = multiprocessing.active_children()
    images = iter(batches(Shades(40), steps=range(10), num_workers=1))
    next(images)
    (worker,) = set(multiprocessing.active_children()) - set(others)
    os.kill(worker.pid, signal.SIGKILL)
    assert wait_for(lambda: not is_alive(worker.pid))
    # Here a step would compute, save and talk to other ranks: torch raises in the midst of it.
    ends_s = time.monotonic() + 0.2
    while time.monotonic() < ends_s:
        torch.ones(10).sum()
    with pytest.raises(DataError, match=r"killed by signal: Killed\. The system kills one"):
        list(images)


@pytest.mark.faults
def test_a_worker_that_hangs_dies_with_its_rank(tmp_path):
    pids = tmp_path / "pid"
    rank = os.fork()
    if rank == 0:
        try:
            list(batches(Shades(40, pids=pids), steps=range(10), num_workers=1))
        finally:
            os._exit(1)
    worker = wait_for(lambda: pids.exists() and pids.read_text())
    os.kill(rank, signal.SIGKILL)
    os.waitpid(rank, 0)
    assert wait_for(lambda: not is_alive(worker))


def test_a_rank_that_fails_does_not_wait_for_its_workers_at_its_end():
    # This worker has not ended by then, as one that hangs would not have.
    code = """if True:
        from PIL import Image
        from pretrain.batches import Batches, Views
        from pretrain.views import augmentation
        views = Views([Image.new("L", (8, 8))] * 40, augmentation("digits", 16), seed=0)
        batches = iter(Batches(views, 4, steps=range(9), num_workers=1, device="cpu"))
        next(batches)
        raise RuntimeError("a mistake")"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1
    assert "RuntimeError: a mistake" in done.stderr


def test_workers_leave_stop_signals_to_their_rank():
    others = multiprocessing.active_children()
    images = iter(batches(Shades(40), steps=range(10), num_workers=1))
    next(images)
    (worker,) = set(multiprocessing.active_children()) - set(others)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(worker.pid, number)
    assert len(list(images)) == 9


def wait_for(answer):
    ends_s = time.monotonic() + 10
    while not (found := answer()) and time.monotonic() < ends_s:
        time.sleep(0.02)
    return found


def is_alive(pid):
    """Whether a process runs; one that waits to be buried does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - it may vanish between two looks
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
