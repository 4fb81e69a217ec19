"""BatchNorm's statistics, computed anew: by hand, over ranks, and as fvcore computes them."""

import copy

import pytest
import torch
from torch import nn

from moco_eval import distributed
from moco_eval.engines.precise_bn import update_statistics


@pytest.fixture
def network():
    """Three norms; the last one is frozen, with statistics of its own."""
    return made()


def made():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 4, 1),
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
        )
    network[5].eval()
    network[5].running_mean.fill_(0.25)
    return network


def images():
    """Batches of unlike numbers and sizes of images."""
    draw = torch.Generator().manual_seed(1)
    counts = (1, 4, 2, 3, 5, 2)
    return [torch.randn(n, 3, 8 + n, 9, generator=draw) * n for n in counts]


def statistics_of(network):
    norms = [module for module in network if isinstance(module, nn.BatchNorm2d)]
    return torch.cat([torch.cat([norm.running_mean, norm.running_var]) for norm in norms])


def test_mean_and_variance_are_of_all_values():
    norm = nn.BatchNorm1d(1)
    update_statistics(norm, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0], [8.0]])])
    # Of 0, 2, 4, 6 and 8: mean 4, squares 16 + 4 + 0 + 4 + 16 over five.
    assert norm.running_mean.item() == pytest.approx(4)
    assert norm.running_var.item() == pytest.approx(8)
    assert norm.momentum == 0.1


def test_a_norm_that_is_frozen_keeps_what_it_has(network):
    before = network[5].running_mean.clone(), network[5].running_var.clone()
    weights = copy.deepcopy(network.state_dict())
    update_statistics(network, images())
    assert torch.equal(network[5].running_mean, before[0])
    assert torch.equal(network[5].running_var, before[1])
    assert torch.equal(network[0].weight, weights["0.weight"])
    assert not torch.equal(network[1].running_mean, weights["1.running_mean"])


def test_a_norm_that_no_batch_reaches_keeps_what_it_has(network):
    model = nn.ModuleDict({"used": network, "unused": nn.BatchNorm2d(2)})
    model.forward = network.forward
    model["unused"].running_mean.fill_(3.0)
    update_statistics(model, images())
    assert model["unused"].running_mean.tolist() == [3.0, 3.0]


def test_what_was_before_plays_no_part(network):
    other = copy.deepcopy(network)
    other[1].running_mean.fill_(1e9)
    update_statistics(network, images())
    update_statistics(other, images())
    assert torch.equal(statistics_of(network), statistics_of(other))


def of_a_rank():
    network = made()
    update_statistics(network, images()[distributed.rank() :: 2])
    return statistics_of(network)


def test_ranks_agree_on_what_all_of_them_saw(network, on_ranks):
    first, second = on_ranks(2, of_a_rank)
    update_statistics(network, images())
    assert torch.equal(first, second)
    assert torch.allclose(first, statistics_of(network), rtol=1e-5, atol=1e-6)


def of_a_synchronised_rank():
    network = made()
    distributed.synchronize_batch_norm(network, "cpu")
    network[5].eval()
    own = [batch if distributed.rank() == 0 else 2 * batch.flip(3) for batch in images()]
    update_statistics(network, own)
    return [module.running_var for module in (network[1], network[4])]


def test_norms_that_see_all_ranks_have_the_statistics_of_joint_batches(network, on_ranks):
    of_ranks = on_ranks(2, of_a_synchronised_rank)
    update_statistics(network, [torch.cat([batch, 2 * batch.flip(3)]) for batch in images()])
    for own in of_ranks:
        assert torch.allclose(own[0], network[1].running_var, rtol=1e-5, atol=1e-6)
        assert torch.allclose(own[1], network[4].running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.detectron2
def test_statistics_are_fvcores(network):
    from fvcore.nn.precise_bn import update_bn_stats

    expected = copy.deepcopy(network)
    update_bn_stats(expected, images(), len(images()))
    update_statistics(network, images())
    assert torch.allclose(statistics_of(network), statistics_of(expected), rtol=1e-6, atol=1e-6)
