"""Ranks on one process, on several, and on a mixture compute the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moco_eval import distributed
from pretrain import shuffle
from pretrain.moco import MoCo

STEPS, BATCH = 5, 32


class Mean(nn.Module):
    """Embeds each image as the mean of the group that it went through with."""

    def forward(self, x):
        return x.mean(0, keepdim=True).expand(len(x), -1)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1)


def test_groups_see_only_their_own_images():
    # Two groups of two: (0, 2) has mean 1, (4, 10) has mean 7.
    assert shuffle.by_group(Mean(), numbers(0, 2, 4, 10), 2).flatten().tolist() == [1, 1, 7, 7]


def test_shuffled_groups_come_back_in_order():
    # Shuffled by (3, 0, 2, 1) the groups are images (3, 0) with mean 5 and (2, 1) with mean 3.
    permutation = torch.tensor([3, 0, 2, 1])
    shuffled = shuffle.shuffled_share(numbers(0, 2, 4, 10), permutation)
    embedded = shuffle.by_group(Mean(), shuffled, 2)
    assert shuffle.restored(embedded, permutation).flatten().tolist() == [5, 3, 3, 5]


def test_running_statistics_follow_the_first_group_alone():
    # Momentum 0.1 from 0: the first group's mean 1 gives 0.1; the second's 1e9 must not show.
    norm = nn.BatchNorm1d(1)
    shuffle.by_group(norm, numbers(0, 2, 1e9, 1e9), 2)
    assert norm.running_mean.item() == pytest.approx(0.1)
    assert norm.num_batches_tracked.item() == 1
    assert norm.track_running_stats


def test_recomputing_activations_changes_neither_gradients_nor_statistics():
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
        images = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        shuffle.by_group(network, images, 2, recompute=recompute).square().sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        results.append(gradients + [buffer.float() for buffer in network.buffers()])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


def share_by_hand(permutation):
    """What each of two ranks with images 0..3 and 4..7 holds after the exchange, and how much."""
    rank = distributed.rank()
    own = torch.arange(4.0).view(4, 1, 1, 1) + 4 * rank
    real, received = distributed.dist.all_to_all_single, []

    def counting(output, given, *splits):
        received.append(sum(splits[0]) - splits[0][rank])
        return real(output, given, *splits)

    distributed.dist.all_to_all_single = counting
    share = shuffle.shuffled_share(own, permutation)
    restored = shuffle.restored(share.flatten(1), permutation)
    return share.flatten().tolist(), restored.flatten().tolist(), received


def test_each_process_gets_the_images_of_its_places_and_no_other(on_ranks):
    # Places 0-3 belong to rank 0: images 7 0 2 5; places 4-7 to rank 1: images 1 6 3 4.
    permutation = torch.tensor([7, 0, 2, 5, 1, 6, 3, 4])
    (first, all_0, got_0), (second, all_1, got_1) = on_ranks(2, share_by_hand, permutation)
    assert first == [7, 0, 2, 5]
    assert second == [1, 6, 3, 4]
    assert all_0 == all_1 == list(range(8))
    # Rank 0 lacked images 7 and 5, rank 1 lacked 1 and 3: two of four travel to each.
    assert got_0 == got_1 == [2]


def trained(num_ranks: int) -> dict[str, torch.Tensor]:
    """The state after a few steps of this process's share of a run of ``num_ranks`` ranks."""
    world_size = distributed.world_size()
    torch.manual_seed(0)
    virtual = num_ranks // world_size
    model = MoCo("resnet10_small", 16, 64, 0.9, 0.2, True, virtual_ranks=virtual)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.03, momentum=0.9, weight_decay=5e-4)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        views = torch.randn(2, BATCH, 3, 16, 16, generator=generator)
        permutation = torch.randperm(BATCH, generator=generator)
        own = [shuffle.local_share(view) for view in views]
        logits, labels = model(*own, permutation=permutation)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        distributed.average_gradients(parameters)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("num_processes", [2, 4])
def test_virtual_ranks_equal_processes(on_ranks, num_processes):
    alone = trained(4)
    together = on_ranks(num_processes, trained, 4)[0]
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name], atol=1e-5, rtol=0, msg=name)


def test_the_number_of_ranks_matters():
    # Or the test above could not fail.
    two, four = trained(2), trained(4)
    assert not torch.allclose(two["queue"], four["queue"], atol=1e-3)
