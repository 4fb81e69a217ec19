"""Heads that are trained at once become what torch's optimizers make of each alone."""

import pytest
import torch
from torch import nn

from moco_eval import optim
from moco_eval.probes.heads import Descent, Heads, Setting

NUM_IMAGES, DIM, NUM_CLASSES = 24, 5, 3
LRS, DECAYS = (0.5, 2.0), (0.0, 0.1)
# A step's learning rate is its factor times the head's.
FACTORS = (1.0, 0.5, 0.25, 0.25)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = 3 * torch.randn(NUM_IMAGES, DIM, generator=generator) + 1
    return features, torch.randint(0, NUM_CLASSES, (NUM_IMAGES,), generator=generator)


def settings(*, batch_norm=False):
    return [
        Setting(lr=lr, weight_decay=decay, feature="pooled", batch_norm=batch_norm)
        for lr in LRS
        for decay in DECAYS
    ]


def heads_of(chosen, descent=None):
    return Heads(
        chosen,
        DIM,
        NUM_CLASSES,
        descent=descent or Descent(),
        seed=0,
        device=torch.device("cpu"),
    )


def train(heads, factors=FACTORS):
    shares = torch.full((NUM_IMAGES, len(heads.settings)), 1 / NUM_IMAGES)
    for step, factor in enumerate(factors):
        heads.step(*batch(step), shares, factor)


def torch_trained(setting, descent, first):
    """A linear layer under autograd and a real optimizer."""
    linear = nn.Linear(DIM, NUM_CLASSES)
    with torch.no_grad():
        linear.weight.copy_(first)
        linear.bias.zero_()
    norm = nn.BatchNorm1d(DIM, affine=False, eps=1e-6) if setting.batch_norm else nn.Identity()
    options = {"momentum": descent.sgd_momentum, "nesterov": descent.nesterov}
    optimizer = (
        torch.optim.SGD(linear.parameters(), 1.0, weight_decay=setting.weight_decay, **options)
        if descent.optimizer == "sgd"
        else optim.LARS(linear.parameters(), 1.0, weight_decay=setting.weight_decay)
    )
    for step, factor in enumerate(FACTORS):
        features, labels = batch(step)
        optimizer.param_groups[0]["lr"] = factor * setting.lr
        optimizer.zero_grad()
        nn.functional.cross_entropy(linear(norm(features)), labels).backward()
        optimizer.step()
    return nn.Sequential(norm, linear).eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    "descent",
    [Descent(), Descent(nesterov=True), Descent(optimizer="lars"), Descent(sgd_momentum=0.0)],
    ids=["sgd", "nesterov", "lars", "no momentum"],
)
def test_each_head_becomes_what_torch_makes_of_it_alone(descent, batch_norm):
    heads = heads_of(settings(batch_norm=batch_norm), descent)
    first = heads.weight[0].clone()
    train(heads)
    features, _ = batch(99)
    for number, setting in enumerate(heads.settings):
        alone = torch_trained(setting, descent, first)
        torch.testing.assert_close(heads.weight[number], alone[1].weight, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(heads.bias[number], alone[1].bias, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            heads.logits(features, number), alone(features), atol=1e-5, rtol=1e-5
        )


def test_a_head_that_diverges_leaves_the_others_alone():
    wild = Setting(lr=1e30, weight_decay=1e30, feature="pooled", batch_norm=False)
    quiet = settings()[0]
    both, alone = heads_of([wild, quiet]), heads_of([quiet])
    train(both)
    train(alone)
    torch.testing.assert_close(both.weight[1], alone.weight[0])
    top1, _ = both.judge(*batch(99))
    assert top1[0].isnan()
    assert not top1[1].isnan()


def test_an_image_with_no_share_in_a_head_teaches_it_nothing():
    one, other = heads_of(settings()[:1]), heads_of(settings()[:1])
    features, labels = batch()
    shares = torch.full((NUM_IMAGES, 1), 1 / 20)
    shares[20:] = 0
    one.step(features, labels, shares, 1.0)
    # Whatever the class and the feature of the images that have none.
    features[20:] = 1e9
    other.step(features, (labels + (torch.arange(NUM_IMAGES) >= 20)) % 3, shares, 1.0)
    assert torch.equal(one.weight, other.weight)
    assert one.tally.seen.item() == other.tally.seen.item() == 20


def test_a_batch_of_one_image_is_normalised_as_at_test_time():
    heads = heads_of(settings(batch_norm=True)[:1])
    train(heads)
    mean = heads.running_mean.clone()
    features, labels = batch(99)
    heads.step(features[:1], labels[:1], torch.ones(1, 1), 1.0)
    assert torch.equal(heads.running_mean, mean)
    assert heads.weight.isfinite().all()


def test_heads_are_judged_by_hand():
    heads = heads_of([settings()[0]] * 2)
    heads.weight.zero_()
    # Head 0 says class 0 of everything; head 1 is undecided, and the first class counts.
    heads.bias[0] = torch.tensor([10.0, 0.0, 0.0])
    features, labels = torch.zeros(4, DIM), torch.tensor([0, 0, 0, 1])
    top1, loss = heads.judge(features, labels)
    assert top1.tolist() == [75, 75]
    # ln(1 + 2 e^-10) for three images, and 10 more for the fourth; ln 3 for each.
    assert loss.tolist() == pytest.approx([2.5 + 9e-5, 1.0986], abs=1e-3)
