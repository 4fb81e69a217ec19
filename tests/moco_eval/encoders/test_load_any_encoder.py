"""Files of MoCo and MoCo v3 around any encoder: its tensors come back, and nothing else does."""

import dataclasses

import pytest
import torch
from torch import nn

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import build_network, projector_slot, with_last_layer
from moco_eval.encoders.networks.infer import infer_arch
from moco_eval.errors import CheckpointError

# A classifier each of another name; convnext keeps a norm beside it, which is the encoder's.
ARCHS = ("resnet10_small", "vit_digits", "timm:convnext_atto")


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint and return its path."""

    def write(arch, state, **more):
        path = tmp_path / "checkpoint.pth.tar"
        torch.save({"arch": arch, "state_dict": state, **more}, path)
        return str(path)

    return write


def build(arch, **options):
    """A network whose tensors are not those of a fresh one."""
    torch.manual_seed(5)
    network = build_network(arch, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    return network


def worthless(arch, **options):
    """The tensors of a network with a projector of two layers and a norm, all of them -9."""
    network = build_network(arch, num_classes=4, **options)
    _, dim = projector_slot(network)
    projector = nn.Sequential(nn.Linear(dim, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    state = with_last_layer(network, projector).state_dict()
    return {name: torch.full_like(tensor, -9) for name, tensor in state.items()}


def under(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def mocov3_state(arch, encoder):
    junk = worthless(arch)
    return (
        under("module.base_encoder.", junk | encoder)
        | under("module.momentum_encoder.", junk)
        | {"module.predictor.0.weight": torch.full((6, 4), -9.0)}
    )


def assert_is(encoder, network):
    ours, theirs = encoder.tensors(), network.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def record(**fed):
    return {"moco_eval": {"input": dataclasses.asdict(InputSpec(**fed))}}


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        load_encoder(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_mocov3_file_gives_its_base_encoder_and_nothing_else(save, arch):
    network = build(arch)
    encoder = load_encoder(save(arch, mocov3_state(arch, network.state_dict())))
    assert_is(encoder, network)
    manifest = encoder.manifest
    assert (manifest.format, manifest.tower, manifest.arch) == ("mocov3", "base_encoder", arch)
    # Two projectors of 2 + 5 + 2 tensors, the momentum encoder and the predictor's one.
    assert len(manifest.dropped) == 2 * 9 + len(network.state_dict()) + 1


def test_upstreams_vit_small_is_mocov3s_with_12_heads(save):
    network = build("vit_small_mocov3")
    state = under("module.base_encoder.", network.state_dict())
    state["module.momentum_encoder.cls_token"] = torch.zeros(1)
    encoder = load_encoder(save("vit_small", state))
    assert_is(encoder, network)
    assert encoder.arch == "vit_small_mocov3"
    # timm's vit_small has 6, with the same tensors.
    assert encoder.network.blocks[0].attn.num_heads == 12
    assert encoder.input == InputSpec()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_moco_file_loses_its_projector_whatever_it_is_called(save, arch):
    network = build(arch)
    junk = worthless(arch)
    state = under("module.encoder_q.", junk | network.state_dict())
    state |= under("module.encoder_k.", junk)
    state |= {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1)}
    encoder = load_encoder(save(arch, state))
    assert_is(encoder, network)
    assert encoder.manifest.format == "moco"


def test_a_file_with_a_memory_bank_in_the_place_of_key_encoder_and_queue_loads(save):
    network = build("resnet10_small")
    state = under("module.encoder_q.", worthless("resnet10_small") | network.state_dict())
    encoder = load_encoder(save("resnet10_small", state | {"module.bank": torch.zeros(9, 4)}))
    assert_is(encoder, network)
    assert "module.bank" in encoder.manifest.dropped


def test_whatever_does_not_come_out_even_is_refused(save):
    state = mocov3_state("vit_digits", build("vit_digits").state_dict())
    state["module.teacher.cls_token"] = state.pop("module.base_encoder.cls_token")
    state["module.base_encoder.blocks.4.norm1.bias"] = torch.zeros(96)
    text = refusal(save("vit_digits", state))
    # 4 blocks of 12 tensors; class token, positions, 2 of the patches, 2 of the last norm.
    assert "missing (54 expected): cls_token" in text
    assert "in the file but claimed by no rule: module.teacher.cls_token, " in text
    assert ", module.base_encoder.blocks.4.norm1.bias\n" in text


@pytest.mark.parametrize("arch", ARCHS)
def test_a_supervised_baseline_loses_its_classifier_whatever_it_is_called(save, arch):
    network = build(arch)
    state = worthless(arch) | network.state_dict()
    encoder = load_encoder(save(arch, state, **record(size=32)))
    assert_is(encoder, network)
    assert encoder.arch == arch


# What the tensors tell of the images.


@pytest.mark.parametrize("arch", ["resnet10_small", "vit_digits"])
def test_the_first_convolution_tells_the_number_of_channels(save, arch):
    network = build(arch, in_chans=1)
    state = under("encoder_q.", network.state_dict())
    one_channel = record(size=32, mean=(0.3,), std=(0.4,))
    encoder = load_encoder(save(arch, state, **one_channel))
    assert_is(encoder, network)
    assert encoder.features(torch.randn(2, 1, 32, 32)).dim() == 2
    assert "images of 1 channels, and mean and std are known for 3" in refusal(save(arch, state))


def test_the_positions_tell_the_size_of_the_images(save):
    network = build("vit_digits", image_size=16)
    encoder = load_encoder(save("vit_digits", under("encoder_q.", network.state_dict())))
    assert_is(encoder, network)
    assert encoder.input == InputSpec(size=16)


def test_a_timm_network_is_built_for_the_size_that_the_record_says(save):
    network = build("timm:vit_tiny_patch16_224", image_size=32)
    state = under("encoder_q.", network.state_dict())
    encoder = load_encoder(save("timm:vit_tiny_patch16_224", state, **record(size=32)))
    assert_is(encoder, network)
    assert encoder.features(torch.randn(2, 3, 32, 32)).shape == (2, 192)
    # Without one its name says the size.
    text = refusal(save("timm:vit_tiny_patch16_224", state))
    assert "pos_embed is for images of 32 pixels; this architecture takes 224" in text


def test_fresh_encoders_for_small_images_know_their_size():
    assert load_encoder("random:vit_digits").input == DIGITS_INPUT
    assert load_encoder("random:resnet18_cifar").input == InputSpec(size=32, crop_pct=1.0)
    assert load_encoder("random:vit_conv_small_mocov3").input == InputSpec()


@pytest.mark.parametrize(
    ("arch", "in_chans"),
    [("resnet18_cifar", 3), ("resnet50_w2x", 3), ("resnet18_w4x_cifar", 2), ("resnet34", 1)],
)
def test_names_and_shapes_tell_a_resnets_stem_width_and_channels(arch, in_chans):
    with torch.device("meta"):
        state = build_network(arch, in_chans=in_chans).state_dict()
    assert infer_arch(state) == (arch, 1)


def test_a_small_resnet_without_a_name_is_fed_small_images(tmp_path):
    path = tmp_path / "weights.pth"
    network = build("resnet18_cifar")
    torch.save(network.state_dict(), path)
    encoder = load_encoder(str(path))
    assert_is(encoder, network)
    assert (encoder.arch, encoder.input.size) == ("resnet18_cifar", 32)
