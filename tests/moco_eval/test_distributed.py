"""What ranks tell each other, and that a single process needs no telling."""

import time

import pytest
import torch
from torch import nn

from moco_eval import distributed
from moco_eval.errors import RankError


def own(num: int = 3) -> torch.Tensor:
    """Rank 0 has 0, 1, 2; rank 1 has 10, 11, 12."""
    return torch.arange(float(num)) + 10 * distributed.rank()


def test_a_single_process_is_told_what_it_says():
    assert not distributed.is_launched()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.gather(own()).tolist() == [0, 1, 2]
    assert distributed.total(own()).tolist() == [0, 1, 2]
    assert [part.tolist() for part in distributed.gather_uneven(own())] == [[0, 1, 2]]


def everything_gathered():
    rank = distributed.rank()
    uneven = [part.tolist() for part in distributed.gather_uneven(own(2 + rank))]
    # Each keeps one value of three and sends two.
    sent, received = ([1, 2], [1, 2]) if rank == 0 else ([2, 1], [2, 1])
    swapped = distributed.exchange(own(), sent, received).tolist()
    return [
        distributed.gather(own()).tolist(),
        uneven,
        swapped,
        distributed.total(own()).tolist(),
        distributed.broadcast(own()).tolist(),
    ]


def test_two_ranks_hear_each_other_in_order_of_rank(on_ranks):
    first, second = on_ranks(2, everything_gathered)
    assert first[0] == second[0] == [0, 1, 2, 10, 11, 12]
    assert first[1] == second[1] == [[0, 1], [10, 11, 12]]
    assert first[2] == [0, 10, 11]
    assert second[2] == [1, 2, 12]
    assert first[3] == second[3] == [10, 12, 14]
    assert first[4] == second[4] == [0, 1, 2]


def an_image_exchanged():
    """Channels-last images keep their values on the way."""
    images = torch.arange(24.0).view(2, 3, 2, 2) + 100 * distributed.rank()
    return distributed.exchange(images.to(memory_format=torch.channels_last), [1, 1], [1, 1])


def test_images_travel_in_any_memory_format(on_ranks):
    first, second = on_ranks(2, an_image_exchanged)
    images = torch.arange(24.0).view(2, 3, 2, 2)
    assert torch.equal(first, torch.stack([images[0], images[0] + 100]))
    assert torch.equal(second, torch.stack([images[1], images[1] + 100]))


def gradients_averaged():
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.full((1, 2), 1.0 + 2 * distributed.rank())
    layer.bias.grad = None
    distributed.average_gradients(layer.parameters())
    return layer.weight.grad.tolist(), layer.bias.grad


def test_gradients_are_averaged_where_there_are_any(on_ranks):
    # (1 + 3) / 2 = 2.
    assert on_ranks(2, gradients_averaged) == [([[2.0, 2.0]], None)] * 2


def gathered_gradient():
    values = own()[:, None].requires_grad_()
    weights = torch.arange(6.0)[:, None] * (1 + distributed.rank())
    (distributed.gather_with_gradient(values) * weights).sum().backward()
    return values.grad.flatten().tolist()


def test_gradients_return_to_where_a_part_came_from(on_ranks):
    # Weights 0..5 on rank 0 and twice that on rank 1 sum to 3 * (0..5).
    assert on_ranks(2, gathered_gradient) == [[0, 3, 6], [9, 12, 15]]


def normalized(shape):
    """Output, gradient and running variance of this rank's half of a synchronised batch."""
    generator = torch.Generator().manual_seed(0)
    images, weights = (torch.randn(shape, generator=generator) for _ in range(2))
    norm = nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight, generator=generator)
    network = distributed.synchronize_batch_norm(nn.Sequential(norm), "cpu")
    share = [t.chunk(distributed.world_size())[distributed.rank()] for t in (images, weights)]
    inputs = share[0].clone().requires_grad_()
    outputs = network(inputs)
    (outputs * share[1]).sum().backward()
    return outputs.detach(), inputs.grad, network[0].running_var, list(network.state_dict())


# Of five rows one rank has three, the other two.
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5, 5), (5, 3)])
def test_synchronised_batch_norm_is_that_of_the_whole_batch(on_ranks, shape):
    alone = normalized(shape)
    halves = on_ranks(2, normalized, shape)
    for part in (0, 1):
        together = torch.cat([half[part] for half in halves])
        torch.testing.assert_close(together, alone[part], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(halves[0][2], alone[2])
    assert halves[0][3] == alone[3]


def silence():
    """Rank 0 waits for a rank that says nothing; the time it took, and what it was told."""
    distributed._set_timeout(2)
    if distributed.rank() == 1:
        time.sleep(4)
        return None
    begun_s = time.monotonic()
    try:
        distributed.total(torch.ones(1))
    except RankError as error:
        return time.monotonic() - begun_s, str(error)


def test_a_silent_rank_ends_in_an_error_of_ours_at_the_timeout(on_ranks):
    waited_s, told = on_ranks(2, silence)[0]
    assert 1.5 < waited_s < 4
    assert "Rank 0 waited for the others in vain" in told
