"""A checkpoint is whole, or it is found not to be."""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time

import pytest
import torch

from moco_eval.encoders.networks import build_network
from moco_eval.errors import CheckpointError, OutputError, UsageError
from moco_eval.training.checkpoint import Checkpoints, State

ARCH = "resnet10_small"
RUN = {"recipe": "tiny", "config": {"lr": 0.24}, "data": "digits", "seed": 0}
SEED = 20
NUM_KILLS = 20


def fresh_state(*, lr: float = 0.1) -> State:
    """A few MB, with momentum in the optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # A second network that is not trained, as key encoders are not.
        model = torch.nn.ModuleList([build_network(ARCH), build_network(ARCH)])
    model[1].requires_grad_(False)
    trained = list(model[0].parameters())
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, 0.01)
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return State(model, optimizer, scaler, prefix="module.")


@pytest.fixture(scope="module")
def state() -> State:
    return fresh_state()


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "run", arch=ARCH, run=RUN)


def file_of(checkpoints, step):
    return checkpoints.folder / f"step-{step:08d}" / "checkpoint.pth.tar"


def manifest_of(checkpoints, step):
    return file_of(checkpoints, step).with_name("manifest.json")


def resumed(checkpoints, state):
    return checkpoints.resume(state, allow_world_size_change=False)


def entries(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def num_whole(checkpoints):
    """How many checkpoints are, by their manifests, as they were written."""
    manifests = checkpoints.folder.glob("step-*/manifest.json")
    return sum(
        hashlib.sha256(path.with_name(name).read_bytes()).hexdigest() == told["sha256"]
        for path in manifests
        for name, told in json.loads(path.read_text())["files"].items()
    )


def in_child(work):
    """Start ``work`` in a forked process and return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def test_a_checkpoint_is_a_folder_whose_manifest_describes_its_file(checkpoints, state):
    path = checkpoints.save(state, step=7, epoch=2)
    assert path == file_of(checkpoints, 7)
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint.pth.tar", "manifest.json"]
    manifest = json.loads(manifest_of(checkpoints, 7).read_text())
    assert (manifest["step"], manifest["epoch"], manifest["world_size"]) == (7, 2, 1)
    described = manifest["files"]["checkpoint.pth.tar"]
    assert described["size"] == path.stat().st_size
    assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    root = torch.load(path, weights_only=True)
    assert root["moco_eval"] == RUN
    assert root["step"] == 7
    assert {name.split(".")[0] for name in root["state_dict"]} == {"module"}


def test_all_that_training_changes_is_restored(checkpoints, state):
    checkpoints.save(state, step=3, epoch=0)
    other = fresh_state(lr=0.3)
    with torch.no_grad():
        for tensor in other.model.state_dict().values():
            tensor.fill_(9)
    for held in other.optimizer.state.values():
        held["momentum_buffer"].fill_(9)
    assert resumed(checkpoints, other) == 3
    saved, restored = state.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(saved[name], restored[name]) for name in saved)
    one, two = state.optimizer.state_dict(), other.optimizer.state_dict()
    assert one["param_groups"] == two["param_groups"]
    for place, held in one["state"].items():
        assert torch.equal(held["momentum_buffer"], two["state"][place]["momentum_buffer"])


def test_equal_states_are_equal_bytes_and_two_are_kept(checkpoints, state):
    written = checkpoints.save(state, step=3, epoch=0).read_bytes()
    # What was read has other string objects, which pickle would write out once more.
    restored, run = fresh_state(), json.loads(json.dumps(RUN))
    resumed(checkpoints, restored)
    other = Checkpoints(checkpoints.folder.parent / "other", arch=ARCH, run=run)
    assert other.save(restored, step=3, epoch=0).read_bytes() == written
    for step in (6, 9, 12):
        checkpoints.save(state, step=step, epoch=0)
    assert entries(checkpoints) == ["step-00000009", "step-00000012"]


@pytest.mark.faults
def test_kill_9_while_saving_loses_nothing_that_was_acknowledged(
    checkpoints, state, tmp_path, monkeypatch, capsys
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    draw = random.Random(SEED)
    heard, told = os.pipe()
    os.set_blocking(heard, False)
    acknowledged = num_swept = 0

    def save_on_and_on():
        for step in range(acknowledged + 1, acknowledged + 1000):
            checkpoints.save(state, step=step, epoch=0)
            os.write(told, step.to_bytes(4, "big"))

    for _ in range(NUM_KILLS):
        pid = in_child(save_on_and_on)
        time.sleep(draw.uniform(0.02, 0.9))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        with contextlib.suppress(BlockingIOError):  # killed before its first checkpoint was whole
            acknowledged = int.from_bytes(os.read(heard, 1 << 16)[-4:], "big")
        assert num_whole(checkpoints) >= min(2, acknowledged)
        num_swept += len(list(checkpoints.folder.glob(".step-*.tmp")))
        newest = resumed(checkpoints, state)
        assert newest >= acknowledged
        # Nothing under a checkpoint's name was ever a part of one.
        assert all(name[5:].isdigit() for name in entries(checkpoints))
        acknowledged = newest
    assert acknowledged > NUM_KILLS
    # One in two kills meets a half-written checkpoint; none at all would mean that none was tried.
    assert num_swept > 0
    assert capsys.readouterr().out.count("half-written") <= num_swept
    assert not list(elsewhere.iterdir())


@pytest.mark.faults
def test_kill_9_while_old_ones_are_removed_leaves_two(checkpoints, state, monkeypatch, capsys):
    for step in (1, 2):
        checkpoints.save(state, step=step, epoch=0)

    def remove_a_file_and_die(folder, **_):
        next(folder.iterdir()).unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_a_file_and_die)
        pid = in_child(lambda: checkpoints.save(state, step=3, epoch=0))
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert len(entries(checkpoints)) == 3
    assert num_whole(checkpoints) == 2
    assert resumed(checkpoints, state) == 3
    assert entries(checkpoints) == ["step-00000002", "step-00000003"]
    assert "removed 1 half-written" in capsys.readouterr().out


@pytest.mark.faults
@pytest.mark.parametrize("kept", [0.0, 1, 0.5, -1], ids=["nothing", "a byte", "half", "all but 1"])
def test_of_a_truncated_checkpoint_the_one_before_is_taken(checkpoints, state, kept, capsys):
    for step in (1, 2):
        checkpoints.save(state, step=step, epoch=0)
    size = file_of(checkpoints, 2).stat().st_size
    length = int(size * kept) if isinstance(kept, float) else kept % size
    os.truncate(file_of(checkpoints, 2), length)
    assert resumed(checkpoints, state) == 1
    assert entries(checkpoints) == ["step-00000001", "step-00000002.corrupt"]
    said = capsys.readouterr().out
    assert f"step-00000002 is damaged (checkpoint.pth.tar has {length} of {size} bytes)" in said
    assert "put aside as step-00000002.corrupt" in said
    # The way to step 2 is free again, and a second damage of it has a place, too.
    checkpoints.save(state, step=2, epoch=0)
    os.truncate(file_of(checkpoints, 2), 5)
    assert resumed(checkpoints, state) == 1


@pytest.mark.faults
def test_each_flipped_byte_is_found_by_its_hash(checkpoints, state):
    checkpoints.save(state, step=1, epoch=0)
    path = checkpoints.save(state, step=2, epoch=0)
    good = path.read_bytes()
    draw = random.Random(SEED)
    aside = path.parent.with_name("step-00000002.corrupt")
    for _ in range(20):
        # The middle of the file is tensors; torch.load accepts each of these files.
        place = draw.randrange(len(good) // 4, len(good) * 3 // 4)
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        torch.load(path, weights_only=True)
        assert resumed(checkpoints, state) == 1
        aside.rename(path.parent)
    path.write_bytes(good)
    assert resumed(checkpoints, state) == 2


@pytest.mark.faults
@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{}",
        '{"step": 2, "world_size": 1, "files": {"../step-00000001/checkpoint.pth.tar": {}}}',
        '{"step": 2, "world_size": 1, "files": {"checkpoint.pth.tar": "elsewhere"}}',
        "the other's",
    ],
    ids=["missing", "empty", "says nothing", "points elsewhere", "no description", "of step 1"],
)
def test_a_checkpoint_without_its_own_manifest_is_put_aside(checkpoints, state, text):
    for step in (1, 2):
        checkpoints.save(state, step=step, epoch=0)
    path = manifest_of(checkpoints, 2)
    if text is None:
        path.unlink()
    elif text == "the other's":
        shutil.copytree(path.parent.with_name("step-00000001"), path.parent, dirs_exist_ok=True)
    else:
        path.write_text(text)
    assert resumed(checkpoints, state) == 1
    checkpoints.save(state, step=2, epoch=0)
    assert resumed(checkpoints, state) == 2


@pytest.mark.faults
def test_a_run_with_damaged_checkpoints_alone_never_begins_anew(checkpoints, state):
    file = checkpoints.save(state, step=1, epoch=0)
    os.truncate(file, 100)
    for _ in range(2):  # asked twice, answered twice
        with pytest.raises(CheckpointError, match="holds no checkpoint that is as it was written"):
            resumed(checkpoints, state)


@pytest.mark.faults
def test_a_full_disk_leaves_the_old_checkpoint_and_no_part_of_the_new(checkpoints, state):
    old = checkpoints.save(state, step=1, epoch=0)
    before = old.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ: writing past the limit is an error, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
    try:
        with pytest.raises(OutputError, match="step-00000002 cannot be written") as caught:
            checkpoints.save(state, step=2, epoch=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 74
    assert entries(checkpoints) == ["step-00000001"]
    assert old.read_bytes() == before
    assert resumed(checkpoints, state) == 1


@pytest.mark.faults
def test_a_run_that_will_not_fit_is_refused_at_its_start(checkpoints, state, monkeypatch):
    size = checkpoints.save(state, step=1, epoch=0).stat().st_size
    usage = shutil.disk_usage(checkpoints.folder)
    # 2.2 checkpoints are asked for; what a file holds beside its tensors is less than a tenth.
    for factor, fits in ((2.0, False), (2.3, True)):
        free = int(factor * size)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        if fits:
            checkpoints.require_space(state)
            continue
        with pytest.raises(
            UsageError, match=r"MiB free, .* need \d+ MiB.*another --output"
        ) as told:
            checkpoints.require_space(state)
        assert told.value.exit_code == 2


def test_what_was_published_is_the_newest_checkpoint(checkpoints, state):
    path = checkpoints.save(state, step=4, epoch=1)
    checkpoints.publish(4)
    assert checkpoints.final.read_bytes() == path.read_bytes()
