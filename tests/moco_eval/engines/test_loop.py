"""The loop of dense models: exact resume, stops, what is refused, and several ranks."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from moco_eval import distributed
from moco_eval.engines import loop
from moco_eval.engines.loop import Job, fit
from moco_eval.engines.recipe import Training
from moco_eval.errors import DivergedError, PreemptedError, UsageError
from moco_eval.training.metrics import read_metrics

NUM_STEPS = 30


class Model(nn.Module):
    """Something with a norm, draws of its own and a part that learns nothing."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.frozen = nn.Linear(4, 6).requires_grad_(False)
            self.norm = nn.BatchNorm1d(6)
            self.last = nn.Linear(6, 2)

    def forward(self, batch):
        found = self.last(nn.functional.dropout(self.norm(self.frozen(batch)), 0.5))
        return {"loss_one": found[:, 0].square().mean(), "loss_two": (found[:, 1] - 1).abs().mean()}


def training(**numbers):
    defaults = {
        "num_iterations": NUM_STEPS,
        "batch_total": 8,
        "lr": 0.1,
        "lr_drops": (20,),
        "precise_bn_batches": 3,
    }
    return Training(**defaults | numbers)


class Batches:
    """The same batch for the same step, and a list of the steps asked for; at one it may act."""

    def __init__(self, act=None, at=None, size=8):
        self.act, self.at, self.size = act, at, size
        self.asked = []

    def __call__(self, steps):
        for step in steps:
            self.asked.append(step)
            if step == self.at:
                self.act()
            draw = torch.Generator().manual_seed(1000 * step + distributed.rank())
            yield torch.randn(self.size, 4, generator=draw)


def job(folder, **more):
    return Job(**{"name": "testing", "folder": folder, "arch": "a", "run": {}, "seed": 5} | more)


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise OSError("as if it were killed")


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def losses_of(folder):
    kept = ("step", "lr", "loss_one", "loss_two")
    return [{name: row[name] for name in kept} for row in read_metrics(folder / loop.METRICS)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A whole run's model and its rows."""
    folder = tmp_path_factory.mktemp("whole")
    model = Model()
    details = fit(model, training(), Batches(), job(folder))
    assert set(details["final_losses"]) == {"loss_one", "loss_two"}
    return state_of(model), losses_of(folder)


# In the middle of a row of twenty; when one ends; in the last step; among BatchNorm's batches.
@pytest.mark.parametrize("at", [12, 19, NUM_STEPS - 1, NUM_STEPS + 1])
def test_a_run_that_was_stopped_continues_as_if_it_had_not_been(tmp_path, uninterrupted, at):
    with pytest.raises(PreemptedError, match="Stopped by SIGTERM after"):
        fit(Model(), training(), Batches(stop, at), job(tmp_path))
    again, batches = Model(), Batches()
    torch.manual_seed(77)  # of no influence
    fit(again, training(), batches, job(tmp_path))
    assert batches.asked == list(range(min(at + 1, NUM_STEPS), NUM_STEPS + 3))
    assert same(uninterrupted[0], again.state_dict())
    # Each step is in one row, once.
    assert losses_of(tmp_path) == uninterrupted[1]


def test_a_run_that_crashed_continues_from_what_it_saved(tmp_path, uninterrupted, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    with pytest.raises(OSError, match="as if it were killed"):
        fit(Model(), training(), Batches(crash, 27), job(tmp_path))
    again, batches = Model(), Batches()
    fit(again, training(), batches, job(tmp_path))
    # Saved where a row ends.
    assert batches.asked[0] == 20
    assert same(uninterrupted[0], again.state_dict())
    assert losses_of(tmp_path) == uninterrupted[1]


def test_a_run_that_is_done_asks_for_nothing_more(tmp_path, uninterrupted):
    fit(Model(), training(), Batches(), job(tmp_path))
    again, batches = Model(), Batches()
    details = fit(again, training(), batches, job(tmp_path))
    assert batches.asked == []
    assert same(uninterrupted[0], again.state_dict())
    # The statistics over three batches are part of it.
    assert not torch.equal(again.norm.running_mean, Model().norm.running_mean)
    assert details["final_losses"]["loss_one"] == uninterrupted[1][-1]["loss_one"]


def test_rows_are_means_of_twenty_updates(tmp_path):
    seen = []

    class Counting(Model):
        def forward(self, batch):
            losses = super().forward(batch)
            if self.training:
                seen.append(losses["loss_one"].item())
            return losses

    fit(Counting(), training(), Batches(), job(tmp_path))
    rows = read_metrics(tmp_path / loop.METRICS)
    assert [row["step"] for row in rows] == [19, 29]
    assert rows[0]["loss_one"] == pytest.approx(sum(seen[:20]) / 20, abs=1e-5)
    assert rows[1]["loss_one"] == pytest.approx(sum(seen[20:30]) / 10, abs=1e-5)
    assert rows[1]["lr"] == pytest.approx(0.01)
    assert {"memory_mib", "images_per_s", "wait_percent"} <= rows[0].keys()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_what_has_no_gradient_stays_as_it_is(tmp_path):
    model = Model()
    before = state_of(model)
    fit(model, training(weight_decay=0.1), Batches(), job(tmp_path))
    moved = {name for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert moved == {"norm.weight", "norm.bias", "last.weight", "last.bias"}


def test_draws_outside_go_on_as_if_nothing_had_been_trained(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    fit(Model(), training(num_iterations=1), Batches(), job(tmp_path))
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_draws_otherwise(tmp_path, uninterrupted):
    model = Model()
    fit(model, training(), Batches(), job(tmp_path, seed=6))
    assert not torch.equal(model.last.weight, uninterrupted[0]["last.weight"])


def test_another_runs_checkpoints_are_refused(tmp_path):
    fit(Model(), training(), Batches(), job(tmp_path, run={"lr": 0.1}))
    with pytest.raises(UsageError, match=r"belongs to another run: lr was 0.1, now 0.2"):
        fit(Model(), training(), Batches(), job(tmp_path, run={"lr": 0.2}))


class Broken(Model):
    """Its loss is not finite, or its own check says so, in step 4."""

    def __init__(self, *, raises=False, on_rank=0):
        super().__init__()
        self.raises, self.on_rank, self.step = raises, on_rank, 0

    def forward(self, batch):
        losses = super().forward(batch)
        self.step += 1
        if self.step == 5 and distributed.rank() == self.on_rank:
            if self.raises:
                raise FloatingPointError("as Detectron2's proposals do")
            losses["loss_two"] = losses["loss_two"] * torch.nan
        return losses


@pytest.mark.parametrize("raises", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_does_harm(tmp_path, raises):
    model = Broken(raises=raises)
    with pytest.raises(DivergedError, match=r"not finite at update 4 of 30 \(lr 0\.1\).*--set lr"):
        fit(model, training(), Batches(), job(tmp_path))
    assert all(weight.isfinite().all() for weight in model.parameters())


def diverge_on_one_rank(folder):
    model = Broken(on_rank=1)
    with pytest.raises(DivergedError, match="not finite at update 4"):
        fit(model, training(), Batches(), job(folder))
    return all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_all_ranks_learn_that_one_of_them_diverged(on_ranks, tmp_path):
    assert on_ranks(2, diverge_on_one_rank, tmp_path) == [True, True]


class Halved(nn.Module):
    """Its loss is a mean over the batch; on the second rank a weight has no part in it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        offset = self.offset if distributed.rank() == 0 else 0
        return {"loss": ((batch @ self.weight) + offset).square().mean()}


def train_in_halves(folder):
    model = Halved()
    fit(model, training(num_iterations=1, precise_bn_batches=0), Batches(), job(folder))
    return model.weight.detach(), model.offset.detach()


def test_gradients_are_means_over_ranks(on_ranks, tmp_path):
    first, second = on_ranks(2, train_in_halves, tmp_path)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    # Both ranks' batches as one, by hand; the offset counts on the first alone.
    batches = [torch.randn(8, 4, generator=torch.Generator().manual_seed(rank)) for rank in (0, 1)]
    weight, offset = torch.ones(4, requires_grad=True), torch.zeros((), requires_grad=True)
    found = torch.stack([batches[0] @ weight + offset, batches[1] @ weight])
    found.square().mean().backward()
    # Nothing has been learnt before, so decay is all there is beside the gradient.
    expected = 1 - 0.1 * (weight.grad + 1e-4)
    assert torch.allclose(first[0], expected, atol=1e-6)
    assert torch.allclose(first[1], -0.1 * offset.grad, atol=1e-6)


def stop_one_rank(folder):
    batches = Batches(stop, 12) if distributed.rank() == 1 else Batches()
    with pytest.raises(PreemptedError, match="after step 13 of 30") as error:
        fit(Model(), training(), batches, job(folder))
    again, more = Model(), Batches()
    fit(again, training(), more, job(folder))
    return str(error.value), more.asked[0], again.last.weight.detach()


def test_all_ranks_stop_after_the_same_step_and_continue(on_ranks, tmp_path):
    first, second = on_ranks(2, stop_one_rank, tmp_path)
    assert first[0].startswith("Stopped by a signal to another rank")
    assert second[0].startswith("Stopped by SIGTERM")
    assert first[1] == second[1] == 13
    assert torch.equal(first[2], second[2])
    assert [row["step"] for row in losses_of(tmp_path)] == [19, 29]
    left = json.loads((tmp_path / loop.UNFINISHED).read_text())
    assert (left["done"], len(left["losses"])) == (13, 13)
