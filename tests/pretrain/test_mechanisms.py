import pytest
import torch
from torch.nn import functional as F

from moco_eval import distributed
from pretrain.mechanisms import EndToEnd, MemoryBank
from pretrain.shuffle import local_share


def images(seed: int, num: int = 8) -> torch.Tensor:
    return torch.randn(num, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def end_to_end() -> EndToEnd:
    torch.manual_seed(0)
    return EndToEnd("resnet10_small", 8, 0.2, True, virtual_ranks=2 // distributed.world_size())


def memory_bank(num_images: int = 20) -> MemoryBank:
    torch.manual_seed(0)
    return MemoryBank("resnet10_small", 8, 0.2, True, num_images=num_images)


def test_end_to_end_gradients_flow_through_the_keys():
    # The derivative of the loss by the key images is zero in MoCo and must not be here.
    keys = images(2).requires_grad_()
    logits, labels = end_to_end()(images(1), keys)
    F.cross_entropy(logits, labels).backward()
    assert logits.shape == (8, 8)
    assert labels.tolist() == list(range(8))
    assert keys.grad.abs().max() > 0


def test_end_to_end_statistics_follow_the_queries_alone():
    model = end_to_end()
    model(images(1), images(2))
    assert model.encoder_q.bn1.num_batches_tracked.item() == 1


def gradients_of_a_share():
    model = end_to_end()
    permutation = torch.tensor([5, 0, 3, 6, 1, 4, 7, 2])
    own = [local_share(images(seed)) for seed in (1, 2)]
    logits, labels = model(*own, permutation=permutation)
    F.cross_entropy(logits, labels).backward()
    distributed.average_gradients(model.parameters())
    return [parameter.grad for parameter in model.parameters()]


def test_end_to_end_on_two_processes_is_one_batch(on_ranks):
    alone = gradients_of_a_share()
    for together in on_ranks(2, gradients_of_a_share):
        for one, two in zip(alone, together, strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_the_bank_is_compared_before_it_is_updated():
    model = memory_bank()
    before = model.bank.clone()
    samples, negatives = torch.tensor([3, 7]), torch.tensor([0, 19, 4])
    logits, labels = model(images(1, 2), samples, negatives)
    queries = F.normalize(model.encoder_q(images(1, 2)), dim=1)
    torch.testing.assert_close(logits[:, 0] * 0.2, (queries * before[samples]).sum(1))
    torch.testing.assert_close(logits[:, 1:] * 0.2, queries @ before[negatives].T)
    assert labels.tolist() == [0, 0]


def test_only_the_seen_images_entries_move_half_way_to_their_queries():
    model = memory_bank()
    before = model.bank.clone()
    samples = torch.tensor([3, 7])
    model(images(1, 2), samples, torch.tensor([0]))
    queries = F.normalize(model.encoder_q(images(1, 2)), dim=1)
    # Instance Discrimination: 0.5 * entry + 0.5 * query, then to length 1.
    expected = F.normalize(0.5 * before[samples] + 0.5 * queries, dim=1)
    torch.testing.assert_close(model.bank[samples], expected)
    others = [i for i in range(20) if i not in (3, 7)]
    assert torch.equal(model.bank[others], before[others])


def bank_after_a_step():
    model = memory_bank()
    samples = local_share(torch.tensor([3, 7, 11, 2]))
    model(local_share(images(1, 4)), samples, torch.tensor([0]))
    return model.bank


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_learns_of_all_queries(on_ranks, rank):
    bank = on_ranks(2, bank_after_a_step)[rank]
    moved = (bank != memory_bank().bank).any(1).nonzero().flatten().tolist()
    assert moved == [2, 3, 7, 11]
