"""A checkpoint's projector, read again, against the network that the checkpoint was made of."""

import pytest
import torch
from torch import nn

from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.projector import described, load_projector, project
from moco_eval.errors import CheckpointError
from pretrain.moco import MoCo
from pretrain.mocov3 import MoCoV3

ARCH = "resnet10_small"


def scrambled(model):
    """No BatchNorm has the statistics that a fresh one has."""
    generator = torch.Generator().manual_seed(5)
    for tensor in model.state_dict().values():
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def saved(path, state, arch=ARCH):
    torch.save({"arch": arch, "state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    return path


def mocov1():
    return MoCo(ARCH, dim=16, queue_size=8)


def mocov2():
    return MoCo(ARCH, dim=16, queue_size=8, mlp=True)


def mocov3_resnet():
    return MoCoV3(ARCH, dim=16, mlp_dim=24)


def mocov3_vit():
    return MoCoV3("vit_digits", dim=16, mlp_dim=24, num_projector_layers=3)


CASES = {
    "MoCo v1": (mocov1, "encoder_q", "encoder_k", ARCH, "Linear 128-16"),
    "MoCo v2": (mocov2, "encoder_q", "encoder_k", ARCH, "Linear 128-128, ReLU, Linear 128-16"),
    "MoCo v3, ResNet": (
        mocov3_resnet,
        "base_encoder",
        "momentum_encoder",
        ARCH,
        "Linear 128-24, BatchNorm, ReLU, Linear 24-16, BatchNorm",
    ),
    "MoCo v3, ViT": (
        mocov3_vit,
        "base_encoder",
        "momentum_encoder",
        "vit_digits",
        "Linear 96-24, BatchNorm, ReLU, Linear 24-24, BatchNorm, ReLU, Linear 24-16, BatchNorm",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_encoder_and_projector_in_a_row_are_the_pretrained_network(case, tmp_path):
    build, tower, other, arch, layers = CASES[case]
    model = scrambled(build())
    # The other network's tensors must not get in.
    state = {
        n: torch.full_like(t, -9) if n.startswith(other) else t.clone()
        for n, t in model.state_dict().items()
    }
    encoder = load_encoder(str(saved(tmp_path / "checkpoint.pth.tar", state, arch)))
    projector = load_projector(encoder)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = model.get_submodule(tower).eval()(images)
    apart = project(projector, encoder.features(images))
    torch.testing.assert_close(apart, whole, rtol=1e-5, atol=1e-5)
    assert described(projector) == layers
    assert not any(p.requires_grad for p in projector.parameters())


def test_the_tower_that_was_loaded_has_its_own_projector(tmp_path):
    model = mocov2()
    model.encoder_k.fc[2].bias.data.fill_(7)
    path = str(saved(tmp_path / "checkpoint.pth.tar", model.state_dict()))
    bias = {
        tower: load_projector(load_encoder(path, tower=tower))[2].bias.mean().item()
        for tower in ("encoder_q", "encoder_k")
    }
    assert bias["encoder_k"] == 7
    assert abs(bias["encoder_q"]) < 1


def test_features_are_projected_in_parts_as_at_once():
    projector = nn.Sequential(nn.Linear(4, 2)).eval().requires_grad_(False)
    features = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        project(projector, features, batch_size=3), project(projector, features)
    )
    with pytest.raises(CheckpointError, match="takes features of 4 dimensions, and the encoder g"):
        project(projector, features[:, :3])


def test_an_encoder_without_a_file_has_no_projector():
    with pytest.raises(
        CheckpointError,
        match=r"No projector is known of random:resnet10_small.*"
        r"moco, mocov3.*--set feature=pooled",
    ):
        load_projector(load_encoder(f"random:{ARCH}"))


def refused(tmp_path, change):
    """The error for a checkpoint of MoCo v2 whose state dict ``change`` spoils."""
    state = mocov2().state_dict()
    change(state)
    encoder = load_encoder(str(saved(tmp_path / "checkpoint.pth.tar", state)))
    with pytest.raises(CheckpointError) as caught:
        load_projector(encoder)
    return str(caught.value)


def test_a_file_whose_projector_was_removed_is_refused(tmp_path):
    def remove(state):
        for name in [name for name in state if ".fc." in name]:
            del state[name]

    assert "holds no projector: there is no encoder_q.fc.*" in refused(tmp_path, remove)


def test_two_projectors_are_refused(tmp_path):
    state = mocov3_vit().state_dict()
    state["base_encoder.fc.weight"] = torch.ones(16, 96)
    path = saved(tmp_path / "checkpoint.pth.tar", state, "vit_digits")
    with pytest.raises(
        CheckpointError,
        match=r"more than one projector: there are base_encoder\.fc\.\* and base_encoder\.head\.\*",
    ):
        load_projector(load_encoder(str(path)))


def test_two_readings_are_refused(tmp_path):
    # A projector's layers 0 and 3: a ReLU and what else lie between?
    def part(state):
        for name in [name for name in state if ".fc.2." in name]:
            state[name.replace(".fc.2.", ".fc.3.")] = state.pop(name)

    assert "is no row of linear layers, BatchNorms and ReLUs: 0.weight" in refused(tmp_path, part)


def test_layers_that_do_not_fit_each_other_are_refused(tmp_path):
    def narrow(state):
        state["encoder_q.fc.2.weight"] = state["encoder_q.fc.2.weight"][:, :100].clone()

    assert "no row of linear layers" in refused(tmp_path, narrow)


def test_a_norm_of_another_kind_is_refused(tmp_path):
    # A weight and a bias without running statistics are a LayerNorm's.
    def add_norm(state):
        state["encoder_q.fc.3.weight"] = state["encoder_q.fc.3.bias"] = torch.ones(16)

    assert "3.weight [16]" in refused(tmp_path, add_norm)


def test_a_file_that_changed_in_between_is_refused(tmp_path):
    path = saved(tmp_path / "checkpoint.pth.tar", mocov2().state_dict())
    encoder = load_encoder(str(path))
    saved(path, mocov2().state_dict())
    with pytest.raises(CheckpointError, match="has changed since its encoder was loaded"):
        load_projector(encoder)
