import copy

import pytest
import torch
from torch.nn import functional as F

from moco_eval.errors import UsageError
from pretrain import moco
from pretrain.moco import MoCo, follow


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
    for parameter in model.encoder_q.parameters():
        parameter.data += 0.1  # or a key encoder that does not follow would be right, too
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
    follow(model.encoder_k, model.encoder_q, 0.9)
    for k in model.encoder_k.parameters():
        torch.testing.assert_close(k, torch.full_like(k, 1.1))


def test_the_key_encoder_follows_to_upstreams_last_digit(monkeypatch):
    # In chunks of one tensor and of all: param_k * m + param_q * (1 - m), each product rounded.
    for chunk in (1, 2**20):
        monkeypatch.setattr(moco, "CHUNK_NUMEL", chunk)
        model = small_moco()
        for parameter in model.encoder_q.parameters():
            parameter.data += torch.rand_like(parameter)
        expected = [
            k * 0.999 + q * (1.0 - 0.999)
            for k, q in zip(model.encoder_k.parameters(), model.encoder_q.parameters(), strict=True)
        ]
        follow(model.encoder_k, model.encoder_q, 0.999)
        for k, by_hand in zip(model.encoder_k.parameters(), expected, strict=True):
            assert torch.equal(k, by_hand)


def test_the_tensors_bear_upstreams_names():
    names = set(small_moco().state_dict())
    assert {"queue", "queue_ptr", "encoder_q.conv1.weight", "encoder_k.fc.2.bias"} <= names
    assert {"encoder_q.fc.weight", "encoder_q.fc.bias"} <= set(small_moco(mlp=False).state_dict())
    assert small_moco().queue.shape == (8, 12)


def test_virtual_ranks_normalise_apart():
    # BatchNorm over the whole batch and over its halves must differ, or shuffling does nothing.
    whole = small_moco(virtual_ranks=1)(images(1), images(2), permutation=torch.arange(4))[0]
    halves = small_moco(virtual_ranks=2)(images(1), images(2), permutation=torch.arange(4))[0]
    assert not torch.allclose(whole, halves, atol=1e-3)


def test_the_gradient_is_that_of_the_queue_before_the_keys_entered_it():
    # Upstream clones the queue for this; here its oldest columns alone are kept.
    model, twin = small_moco(), small_moco()
    logits, labels = model(images(1), images(2), permutation=torch.arange(4))
    F.cross_entropy(logits, labels).backward()

    before = twin.queue.clone()
    keys = twin.encode_keys(images(2), torch.arange(4))
    queries = F.normalize(twin.encoder_q(images(1)), dim=1)
    positives = (queries * keys).sum(1, keepdim=True)
    by_hand = torch.cat([positives, queries @ before], dim=1) / twin.temperature
    F.cross_entropy(by_hand, labels).backward()
    for ours, expected in zip(
        model.encoder_q.parameters(), twin.encoder_q.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, expected.grad, atol=1e-6, rtol=1e-4)
    assert not torch.equal(model.queue, before)


def test_two_forward_passes_before_a_backward_pass_are_refused():
    # The first pass's negatives are gone by then: a wrong gradient would be silent.
    model = small_moco()
    first, labels = model(images(1), images(2))
    model(images(3), images(4))
    with pytest.raises(RuntimeError, match="took keys 2 times"):
        F.cross_entropy(first, labels).backward()


def test_the_forward_pass_does_not_copy_the_queue():
    # A queue of 2^20 keys takes 32 MB; a step of 4 tiny images allocates far less than that.
    model = small_moco(queue_size=2**20)
    model(images(1), images(2))
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        model.enqueue(model.encode_keys(images(2)))
        model.encoder_q(images(1))
    assert max(event.cpu_memory_usage for event in profile.key_averages()) < 2**24


def test_accumulation_changes_neither_gradient_nor_queue():
    # One backward pass over four groups, and four of one group each.
    whole = small_moco(virtual_ranks=4, queue_size=16).double()
    parts = copy.deepcopy(whole)
    im_q, im_k = images(1, 8).double(), images(2, 8).double()
    permutation = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    logits, labels = whole(im_q, im_k, permutation=permutation)
    F.cross_entropy(logits, labels).backward()
    keys = parts.encode_keys(im_k, permutation)
    for group, own in zip(im_q.chunk(4), keys.chunk(4), strict=True):
        logits, labels = parts.compare(group, own, num_groups=1)
        (F.cross_entropy(logits, labels) / 4).backward()
    parts.enqueue(keys)
    assert torch.equal(whole.queue, parts.queue)
    for ours, expected in zip(
        parts.encoder_q.parameters(), whole.encoder_q.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, expected.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("arch", "in_chans", "size"),
    [
        ("resnet18_cifar", 3, 32),
        ("resnet10_small", 5, 32),
        ("timm:convnext_atto", 3, 32),
        ("timm:vit_tiny_patch16_224", 1, 32),
    ],
)
def test_any_encoder_trains(arch, in_chans, size):
    torch.manual_seed(0)
    model = MoCo(arch, 8, 12, mlp=True, in_chans=in_chans, image_size=size)
    logits, labels = model(*torch.randn(2, 2, in_chans, size, size))
    assert logits.shape == (2, 13)
    F.cross_entropy(logits, labels).backward()
    assert all(p.grad is not None for p in model.encoder_q.parameters() if p.requires_grad)


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(UsageError, match="linear"):
        MoCo("pixels", dim=8, queue_size=12)
