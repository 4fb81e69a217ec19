import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moco_eval import distributed
from pretrain.mocov3 import MoCoV3


def small(arch: str = "resnet10_small", **changes) -> MoCoV3:
    torch.manual_seed(0)
    return MoCoV3(arch, 8, 16, 0.2, **changes)


def pair(seed: int, num: int = 8) -> torch.Tensor:
    return torch.randn(2, num, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def contrast(q, k, temperature):
    """``ctr`` of the paper's Algorithm 1: rows are queries, the diagonal is positive."""
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T
    return 2 * temperature * F.cross_entropy(logits / temperature, torch.arange(len(q)))


def test_the_loss_is_that_of_the_papers_algorithm_1():
    model = small()
    twin = copy.deepcopy(model)
    x1, x2 = pair(1)
    q1 = twin.predictor(twin.base_encoder(x1))
    q2 = twin.predictor(twin.base_encoder(x2))
    for k, q in zip(
        twin.momentum_encoder.parameters(), twin.base_encoder.parameters(), strict=True
    ):
        k.data = k.data * 0.9 + q.data * (1 - 0.9)
    k1, k2 = twin.momentum_encoder(x1).detach(), twin.momentum_encoder(x2).detach()
    expected = contrast(q1, k2, 0.2) + contrast(q2, k1, 0.2)
    logits, labels = model(x1, x2, 0.9)
    loss = model.loss_scale * F.cross_entropy(logits, labels)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def test_the_momentum_encoder_follows_by_hand_and_gets_no_gradient():
    # m = 0.75 from 1 towards 5: 0.75 * 1 + 0.25 * 5 = 2.
    model = small()
    for leader, follower in zip(
        model.base_encoder.parameters(), model.momentum_encoder.parameters(), strict=True
    ):
        leader.data.fill_(5.0)
        follower.data.fill_(1.0)
    logits, labels = model(*pair(1), 0.75)
    F.cross_entropy(logits, labels).backward()
    for follower in model.momentum_encoder.parameters():
        assert follower.grad is None
        assert torch.equal(follower, torch.full_like(follower, 2.0))


def test_heads_differ_between_resnet_and_vit_as_upstreams_do():
    # Upstream: ResNet 2-layer projector, predictor without a last BatchNorm; ViT 3 and with one.
    resnet, vit = small(), small("vit_digits", num_projector_layers=3, image_size=32)
    layers = [type(layer) for layer in resnet.predictor]
    assert layers == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in vit.predictor] == [*layers, nn.BatchNorm1d]
    assert sum(isinstance(layer, nn.Linear) for layer in resnet.base_encoder.fc) == 2
    assert sum(isinstance(layer, nn.Linear) for layer in vit.base_encoder.head) == 3
    assert not resnet.base_encoder.fc[-1].affine


def test_a_vits_patch_projection_and_positions_are_not_trained():
    model = small("vit_digits", num_projector_layers=3, image_size=32)
    frozen = {n for n, p in model.base_encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}


def share_of_a_step():
    """Mean loss, gradients and statistics of this process's share of one synchronised step."""
    model = small()
    distributed.synchronize_batch_norm(model, "cpu")
    own = [view.chunk(distributed.world_size())[distributed.rank()] for view in pair(1)]
    logits, labels = model(*own, 0.9)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    distributed.average_gradients(parameters)
    distributed.total(mean := loss.detach() / distributed.world_size())
    return [mean, *(p.grad for p in parameters), *(b.float() for b in model.buffers())]


def test_two_processes_compute_what_one_does(on_ranks):
    # Keys are gathered and BatchNorm is synchronised, so that the batch is one whatever holds it.
    alone = share_of_a_step()
    first, second = on_ranks(2, share_of_a_step)
    for one, two, other in zip(alone, first, second, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(two, other)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_scale_is_two_directions_of_two_temperatures(temperature):
    assert MoCoV3("resnet10_small", 8, 16, temperature).loss_scale == 4 * temperature
