import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moco_eval.errors import UsageError
from pretrain.moco import MoCo
from pretrain.shuffle import by_group, by_shuffled_group


def small_moco(**changes) -> MoCo:
    torch.manual_seed(0)
    settings = {"dim": 8, "queue_size": 12, "key_momentum": 0.9, "temperature": 0.2, "mlp": True}
    return MoCo("resnet10_small", **(settings | changes))


def images(seed: int, num: int = 4) -> torch.Tensor:
    return torch.randn(num, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def algorithm_1(model: MoCo, x_q, x_k, permutation):
    """The paper's Algorithm 1 for one rank, line by line, on copies of the model's parts."""
    f_q, f_k = copy.deepcopy(model.encoder_q), copy.deepcopy(model.encoder_k)
    queue, m, t = model.queue.clone(), model.key_momentum, model.temperature
    q = F.normalize(f_q(x_q), dim=1)
    for p_k, p_q in zip(f_k.parameters(), f_q.parameters(), strict=True):
        p_k.data = m * p_k.data + (1 - m) * p_q.data
    k = F.normalize(f_k(x_k[permutation]), dim=1)[torch.argsort(permutation)].detach()
    l_pos = torch.bmm(q.unsqueeze(1), k.unsqueeze(2)).squeeze(2)
    l_neg = torch.mm(q, queue)
    return torch.cat([l_pos, l_neg], dim=1) / t, k, f_k


def test_a_step_is_the_papers_algorithm_1():
    model = small_moco()
    permutation = torch.tensor([2, 0, 3, 1])
    expected, keys, f_k = algorithm_1(model, images(1), images(2), permutation)
    logits, labels = model(images(1), images(2), permutation=permutation)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert labels.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(model.queue[:, :4], keys.T, atol=1e-5, rtol=0)
    for ours, theirs in zip(model.encoder_k.parameters(), f_k.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_positive_is_compared_before_its_key_enters_the_queue():
    model = small_moco()
    before = model.queue.clone()
    logits, _ = model(images(1), images(2))
    queries = F.normalize(model.encoder_q.train()(images(1)), dim=1)
    torch.testing.assert_close(logits[:, 1:] * 0.2, queries @ before, atol=1e-5, rtol=0)


def test_the_queue_is_first_in_first_out_and_wraps():
    # A queue of 12 takes three batches of 4; the fourth replaces the first and nothing else.
    model = small_moco()
    snapshots = []
    for step in range(4):
        model(images(step), images(10 + step))
        snapshots.append((int(model.queue_ptr), model.queue.clone()))
    assert [pointer for pointer, _ in snapshots] == [4, 8, 0, 4]
    third, fourth = snapshots[2][1], snapshots[3][1]
    assert not torch.equal(third[:, :4], fourth[:, :4])
    assert torch.equal(third[:, 4:], fourth[:, 4:])


def test_the_key_encoder_gets_no_gradient_and_starts_as_the_query_encoder():
    model = small_moco()
    for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        assert torch.equal(q, k)
    logits, labels = model(images(1), images(2))
    F.cross_entropy(logits, labels).backward()
    assert all(p.grad is None for p in model.encoder_k.parameters())
    assert all(p.grad is not None for p in model.encoder_q.parameters())


def test_the_key_encoder_follows_by_hand():
    # One step of m = 0.9 from k = 1 towards q = 2 gives 0.9 * 1 + 0.1 * 2 = 1.1.
    model = small_moco()
    for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        q.data.fill_(2.0)
        k.data.fill_(1.0)
    model._update_key_encoder()
    for k in model.encoder_k.parameters():
        torch.testing.assert_close(k, torch.full_like(k, 1.1))


def test_the_tensors_bear_upstreams_names():
    names = set(small_moco().state_dict())
    assert {"queue", "queue_ptr", "encoder_q.conv1.weight", "encoder_k.fc.2.bias"} <= names
    assert {"encoder_q.fc.weight", "encoder_q.fc.bias"} <= set(small_moco(mlp=False).state_dict())
    assert small_moco().queue.shape == (8, 12)


class Mean(nn.Module):
    """Embeds each image as the mean of the group that it went through with."""

    def forward(self, x):
        return x.mean(0, keepdim=True).expand(len(x), -1)


def test_groups_see_only_their_own_images():
    # Two groups of two: (0, 2) has mean 1, (4, 10) has mean 7.
    x = torch.tensor([[0.0], [2.0], [4.0], [10.0]])
    assert by_group(Mean(), x, 2).flatten().tolist() == [1, 1, 7, 7]


def test_shuffled_groups_come_back_in_order():
    # Shuffled by (3, 0, 2, 1) the groups are images (3, 0) with mean 5 and (2, 1) with mean 3.
    x = torch.tensor([[0.0], [2.0], [4.0], [10.0]])
    permutation = torch.tensor([3, 0, 2, 1])
    assert by_shuffled_group(Mean(), x, 2, permutation).flatten().tolist() == [5, 3, 3, 5]


def test_virtual_ranks_normalise_apart():
    # BatchNorm over the whole batch and over its halves must differ, or shuffling does nothing.
    whole = small_moco(virtual_ranks=1)(images(1), images(2), permutation=torch.arange(4))[0]
    halves = small_moco(virtual_ranks=2)(images(1), images(2), permutation=torch.arange(4))[0]
    assert not torch.allclose(whole, halves, atol=1e-3)


def test_a_network_without_fc_is_refused():
    with pytest.raises(UsageError, match="no last linear layer called fc"):
        MoCo("pixels", dim=8, queue_size=12)
