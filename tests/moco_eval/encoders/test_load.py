"""The gate: what each layout loads, what never leaks into it, and what each refusal says."""

import argparse
import dataclasses
import json
import socket
import urllib.request

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.models import save_for_hf
from timm.utils import CheckpointSaver

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import build_network
from moco_eval.errors import CheckpointError, UsageError
from pretrain.moco import MoCo

ARCH = "resnet10_small"
NUM_TENSORS = 72  # 12 convolutions, and 12 BatchNorms of 5 tensors


@pytest.fixture
def backbone():
    """The tensors that a file should give back, no two files' equal."""
    torch.manual_seed(5)
    return build_network(ARCH).state_dict()


def moco_content(backbone, *, prefix="module."):
    """A MoCo checkpoint in which everything but the query encoder's backbone is -9."""
    model = MoCo(ARCH, 8, 16, 0.99, 0.2, True)
    state = {f"{prefix}{n}": torch.full_like(t, -9) for n, t in model.state_dict().items()}
    state |= {f"{prefix}encoder_q.{name}": tensor for name, tensor in backbone.items()}
    return {"epoch": 1, "arch": ARCH, "state_dict": state, "optimizer": {}}


@pytest.fixture
def moco_file(tmp_path, backbone):
    path = tmp_path / "checkpoint.pth.tar"

    def write(edit=lambda content: None, **options):
        content = moco_content(backbone, **options)
        edit(content)
        torch.save(content, path)
        return str(path)

    return write


def assert_holds(encoder, tensors):
    ours = encoder.tensors()
    assert ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(ours[name], tensor), name


def refusal(spec, **options):
    with pytest.raises(CheckpointError) as caught:
        load_encoder(str(spec), **options)
    return str(caught.value)


# Layouts.


@pytest.mark.parametrize("prefix", ["module.", "", "_orig_mod.module.", "module._orig_mod."])
def test_a_moco_file_gives_its_query_encoder_and_nothing_else(moco_file, backbone, prefix):
    encoder = load_encoder(moco_file(prefix=prefix))
    assert_holds(encoder, backbone)
    manifest = encoder.manifest
    assert (manifest.format, manifest.tower, manifest.arch) == ("moco", "encoder_q", ARCH)
    assert manifest.num_loaded == NUM_TENSORS
    # The key encoder's 72, both projectors' 4, queue and pointer.
    assert len(manifest.dropped) == 72 + 2 * 4 + 2
    assert f"{prefix}queue" in manifest.dropped
    # Upstream's files say nothing of their input: MoCo's normalisation is ImageNet's.
    assert manifest.input == InputSpec()


def test_moco_v1s_projector_of_one_layer_is_dropped_as_well(moco_file, backbone):
    def to_v1(content):
        for tower in ("encoder_q", "encoder_k"):
            for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
                del content["state_dict"][f"module.{tower}.fc.{name}"]
            content["state_dict"][f"module.{tower}.fc.weight"] = torch.full((8, 128), -9.0)

    assert_holds(load_encoder(moco_file(to_v1)), backbone)


def test_the_record_of_our_pretraining_says_how_the_encoder_is_fed(moco_file):
    record = {
        "input": dataclasses.asdict(DIGITS_INPUT),
        "method": "moco",
        "recipe": "mocov2-digits",
        "config": {"epochs": 20},
        "data": "digits",
        "seed": 3,
    }
    encoder = load_encoder(moco_file(lambda content: content.update(moco_eval=record)))
    assert encoder.input == DIGITS_INPUT
    del record["input"]
    assert encoder.manifest.pretrain == record


@pytest.mark.parametrize("container", [None, "model", "state_dict"])
def test_a_torchvision_resnet_is_recognised_by_names_and_shapes(tmp_path, container):
    path = tmp_path / "weights.pth"
    state = torchvision.models.resnet18().state_dict()
    torch.save({container: state} if container else state, path)
    encoder = load_encoder(str(path))
    assert (encoder.manifest.format, encoder.arch) == ("torchvision", "resnet18")
    assert encoder.manifest.dropped == ("fc.weight", "fc.bias")
    assert_holds(encoder, {n: t for n, t in state.items() if not n.startswith("fc.")})


def test_our_supervised_baseline_loads_as_torchvision_layout(tmp_path, backbone):
    path = tmp_path / "checkpoint.pth.tar"
    head = {"fc.weight": torch.full((10, 128), -9.0), "fc.bias": torch.full((10,), -9.0)}
    record = {"input": dataclasses.asdict(DIGITS_INPUT), "method": "supervised"}
    content = {"epoch": 1, "arch": ARCH, "state_dict": backbone | head, "optimizer": {}}
    torch.save(content | {"moco_eval": record}, path)
    encoder = load_encoder(str(path))
    assert_holds(encoder, backbone)
    assert encoder.input == DIGITS_INPUT
    assert encoder.manifest.pretrain == {"method": "supervised"}


def test_batchnorms_step_counters_may_be_absent(moco_file, backbone):
    def drop_counters(content):
        for name in [n for n in content["state_dict"] if n.endswith("num_batches_tracked")]:
            del content["state_dict"][name]

    assert_holds(load_encoder(moco_file(drop_counters)), backbone)


def test_a_compiled_submodules_names_lose_their_wrapper(moco_file, backbone):
    def compile_layer1(content):
        content["state_dict"] = {
            name.replace("layer1.", "layer1._orig_mod."): tensor
            for name, tensor in content["state_dict"].items()
        }

    assert_holds(load_encoder(moco_file(compile_layer1)), backbone)


def test_a_detectron2_file_is_mapped_back_to_torchvisions_names(tmp_path):
    path = tmp_path / "d2.pth"
    # Worked out by hand from detectron2's ResNet, one of each kind of name.
    names = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.conv2.weight": "res2.0.conv2.weight",
        "layer4.1.bn2.bias": "res5.1.conv2.norm.bias",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer3.0.downsample.1.running_mean": "res4.0.shortcut.norm.running_mean",
    }
    state = torchvision.models.resnet18().state_dict()
    theirs = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0].startswith("layer"):
            parts[0] = f"res{int(parts[0][5]) + 1}"
        else:
            parts.insert(0, "stem")
        joined = ".".join(parts).replace("downsample.0", "shortcut")
        joined = joined.replace("downsample.1", "shortcut.norm")
        theirs[joined.replace("bn1", "conv1.norm").replace("bn2", "conv2.norm")] = tensor
    assert all(theirs[d2] is state[ours] for ours, d2 in names.items())
    torch.save({"model": theirs, "__author__": "x", "matching_heuristics": True}, path)
    encoder = load_encoder(str(path))
    assert encoder.manifest.format == "detectron2"
    assert_holds(encoder, {n: t for n, t in state.items() if not n.startswith("fc.")})


def test_a_timm_folder_brings_its_own_normalisation(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    save_for_hf(network, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["std"] = [0.1, 0.2, 0.3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(str(tmp_path))
    assert (encoder.manifest.format, encoder.arch) == ("timm", "timm:vit_tiny_patch16_224")
    assert encoder.manifest.dropped == ("head.bias", "head.weight")
    # augreg's mean, not ImageNet's; the folder's s.d., not the one that timm keeps for the name.
    assert (encoder.input.mean, encoder.input.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert (encoder.input.interpolation, encoder.input.crop_pct) == ("bicubic", 0.9)
    ours = encoder.tensors()
    theirs = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_norm_inside_timms_head_is_backbone_and_only_the_classifier_is_dropped(tmp_path):
    network = timm.create_model("convnext_atto", num_classes=7)
    save_for_hf(network, tmp_path, safe_serialization=True)
    encoder = load_encoder(str(tmp_path))
    assert encoder.manifest.dropped == ("head.fc.bias", "head.fc.weight")
    assert "head.norm.weight" in encoder.tensors()


@pytest.mark.parametrize("with_ema", [False, True])
def test_a_timm_training_checkpoint_gives_its_average_where_it_has_one(tmp_path, with_ema):
    network = timm.create_model("resnet18", num_classes=7)
    average = timm.utils.ModelEmaV2(network)
    with torch.no_grad():
        average.module.conv1.weight.fill_(2.0)
        network.conv1.weight.fill_(-9.0 if with_ema else 2.0)
    arguments = argparse.Namespace(model="resnet18", mean=[0.1, 0.2, 0.3], std=None, img_size=160)
    saver = CheckpointSaver(
        network,
        torch.optim.SGD(network.parameters()),
        arguments,
        model_ema=average if with_ema else None,
        checkpoint_dir=str(tmp_path),
    )
    saver.save_checkpoint(epoch=0, metric=1.0)
    encoder = load_encoder(str(tmp_path / "last.pth.tar"))
    assert (encoder.tensors()["conv1.weight"] == 2).all()
    assert encoder.arch == "timm:resnet18"
    assert encoder.manifest.tower == ("state_dict_ema" if with_ema else "state_dict")
    # The command line goes before timm's own configuration of the network.
    assert encoder.input.mean == (0.1, 0.2, 0.3)
    assert (encoder.input.std, encoder.input.size) == (InputSpec().std, 160)


def test_bare_vit_weights_load_where_the_architecture_is_said(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    assert "does not say how its images are normalised" in refusal(path)
    encoder = load_encoder(str(path), arch="timm:vit_tiny_patch16_224")
    assert encoder.manifest.dropped == ("head.weight", "head.bias")
    assert encoder.input.mean == (0.5, 0.5, 0.5)
    # Names and shapes tell the architecture, and the user how it is fed.
    said = load_encoder(str(path), input="imagenet")
    assert (said.arch, said.input) == ("timm:vit_tiny_patch16_224", InputSpec())


# Fresh and published weights.


def test_fresh_weights_depend_on_their_seed_alone():
    torch.manual_seed(1)
    first = load_encoder(f"random:{ARCH}@3").tensor_sha256()
    torch.manual_seed(2)
    expected = torch.get_rng_state()
    assert load_encoder(f"random:{ARCH}@3").tensor_sha256() == first
    assert torch.equal(torch.get_rng_state(), expected)
    assert load_encoder(f"random:{ARCH}@4").tensor_sha256() != first
    zero = load_encoder(f"random:{ARCH}@0").tensor_sha256()
    assert load_encoder(f"random:{ARCH}").tensor_sha256() == zero


def test_fresh_weights_know_their_input():
    assert load_encoder(f"random:{ARCH}").input == DIGITS_INPUT
    assert load_encoder("random:resnet18").input == InputSpec()
    assert load_encoder("random:timm:vit_tiny_patch16_224").input.mean == (0.5, 0.5, 0.5)


def test_pixels_are_their_own_features():
    encoder = load_encoder("pixels")
    images = torch.arange(2 * 3 * 64.0).reshape(2, 3, 8, 8)
    # The mean of three channels that differ by 64 is the middle one.
    assert torch.equal(encoder.features(images), images[:, 1].flatten(1))
    assert encoder.input == InputSpec(size=8, mean=(0,) * 3, std=(1,) * 3, crop_pct=1.0)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("random:resnet10_smal", "Did you mean 'resnet10_small'?"),
        ("random:resnet18@x", "the seed after @ is a whole number, found 'x'"),
        ("torchvision:resnet5", "There is no torchvision ResNet 'resnet5'. Did you mean"),
        ("torchvision:resnet50@IMAGENET1K_V3", "Did you mean 'IMAGENET1K_V"),
        ("timm:vit_tiny_patch16_22", "Did you mean vit_tiny_patch16_224 or"),
    ],
)
def test_a_name_that_nobody_knows_is_answered_with_the_nearest(spec, text):
    with pytest.raises(UsageError) as caught:
        load_encoder(spec)
    assert text in str(caught.value)


@pytest.mark.parametrize("spec", ["pixels", "random:resnet18", "timm:resnet18"])
def test_an_architecture_beside_a_name_that_has_its_own_is_refused(spec):
    with pytest.raises(UsageError, match="--arch resnet50 is for checkpoint files"):
        load_encoder(spec, arch="resnet50")


def test_without_a_network_torchvisions_weights_are_refused_and_the_file_is_named(
    tmp_path, monkeypatch
):
    # Port 9 of this machine: nothing answers there.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    text = refusal("torchvision:resnet18")
    assert "cannot be fetched" in text
    assert "no network" in text
    assert "fetch https://download.pytorch.org/models/resnet18-" in text


def test_without_a_network_the_hubs_weights_are_refused_at_once_and_the_folder_is_named(
    tmp_path, monkeypatch
):
    def no_such_name(*_):
        raise OSError(-2, "Name or service not known")

    # Asked though no name resolves, the hub's client would try ten times in 49 seconds.
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    text = refusal("timm:vit_tiny_patch16_224")
    assert "cannot be fetched" in text
    assert "config.json and model.safetensors" in text
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert "pass that folder" in refusal("hf:nobody/nothing")


# Refusals.


def test_whatever_does_not_come_out_even_is_listed_in_one_error(moco_file):
    def damage(content):
        state = content["state_dict"]
        del state["module.encoder_q.layer4.0.bn2.running_mean"]
        del state["module.encoder_q.layer4.0.bn2.running_var"]
        state["module.predictor.0.weight"] = torch.zeros(1)
        state["module.encoder_q.conv1.weight"] = torch.zeros(16, 3, 7, 7)

    path = moco_file(damage)
    assert refusal(path) == (
        f"{path} cannot be read as 'moco'.\n"
        "  missing (72 expected): layer4.0.bn2.running_mean, layer4.0.bn2.running_var\n"
        "  in the file but claimed by no rule: module.predictor.0.weight\n"
        "  of another shape: conv1.weight is [16, 3, 7, 7], expected [16, 3, 3, 3]\n"
        "The architecture is resnet10_small; --arch NAME takes another.\n"
        "Known formats: moco-eval formats. For another author's layout say --prefix PREFIX, "
        "--arch NAME and --input INPUT, or add a row to moco_eval/encoders/formats."
    )


def test_long_lists_are_shortened(moco_file):
    # Another architecture's names: layer1.1 and further blocks are missing, 4 x 12 less counters.
    text = refusal(moco_file(), arch="resnet18")
    missing = next(line for line in text.splitlines() if line.startswith("  missing"))
    assert missing.startswith("  missing (120 expected): layer1.1.conv1.weight, ")
    assert missing.count(", ") == 5
    assert missing.endswith(" and 34 more")


def test_integers_in_a_weights_place_are_refused(moco_file):
    def quantise(content):
        name = "module.encoder_q.conv1.weight"
        content["state_dict"][name] = torch.zeros(16, 3, 3, 3, dtype=torch.int8)

    text = refusal(moco_file(quantise))
    assert "conv1.weight is [16, 3, 3, 3] of int8, expected [16, 3, 3, 3]" in text


def test_a_file_that_holds_a_tensor_twice_is_refused(moco_file):
    def repeat(content):
        state = content["state_dict"]
        state["encoder_q.conv1.weight"] = torch.zeros(16, 3, 3, 3)

    text = refusal(moco_file(repeat))
    assert "module.encoder_q.conv1.weight and encoder_q.conv1.weight both mean conv1" in text


def test_an_unknown_architecture_in_a_file_is_answered_with_the_nearest(moco_file):
    path = moco_file(lambda content: content.update(arch="resnet10_smal"))
    text = refusal(path)
    assert text.startswith(f"{path}: There is no architecture 'resnet10_smal'.")
    assert "Did you mean 'resnet10_small'?" in text
    assert text.endswith("--arch NAME says another one.")


def test_a_resnet_that_is_no_known_one_asks_for_its_architecture(tmp_path):
    path = tmp_path / "narrow.pth"
    network = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    torch.save(network.state_dict(), path)
    text = refusal(path)
    assert "is of format 'torchvision' but does not say its architecture" in text
    # 12 of resnet18's 20 convolutions, each with its BatchNorm.
    assert "the nearest, resnet18, agrees on 60%" in text
    assert text.endswith("Say it: --arch NAME.")


def test_another_authors_prefix_is_refused_with_what_was_found_and_the_nearest_format(
    tmp_path, backbone
):
    path = tmp_path / "lightning.ckpt"
    state = {f"model.net.{name}": tensor for name, tensor in backbone.items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer_states": []}, path)
    text = refusal(path)
    assert text.startswith(f"{path} is of no known layout.")
    assert "It holds epoch, state_dict (72 entries), optimizer_states." in text
    assert "its first tensors: model.net.conv1.weight [16, 3, 3, 3], " in text
    assert "the nearest format: 'torchvision', if 'model.net.' led no name" in text


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    path = tmp_path / "empty.pth"
    torch.save(content, path)
    text = refusal(path)
    assert "is of no known layout" in text
    assert "No tensors lie there" in text


def test_positions_of_another_length_are_refused_with_the_size_they_are_for(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", img_size=96).state_dict(), path)
    text = refusal(path, arch="timm:vit_tiny_patch16_224")
    # 96 / 16 = 6 patches a side, 224 / 16 = 14, and the class token.
    assert "pos_embed is [1, 37, 192], expected [1, 197, 192]" in text
    assert "pos_embed is for images of 96 pixels; this architecture takes 224" in text


def test_a_folder_brings_the_arguments_that_its_network_was_built_with(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="avg").eval()
    save_for_hf(network, tmp_path, safe_serialization=True)
    encoder = load_encoder(str(tmp_path))
    # The name alone means the class token. Image size and channels are implied by it.
    assert encoder.arch == "timm:vit_tiny_patch16_224:global_pool=avg"
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(encoder.features(images), network(images))


def test_a_configuration_that_is_no_json_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{not json")
    assert "its config.json is no JSON" in refusal(tmp_path)


def test_a_record_with_an_input_that_feeds_nothing_is_refused(moco_file):
    record = {"input": {"size": 32, "colour": "red"}}
    text = refusal(moco_file(lambda content: content.update(moco_eval=record)))
    assert "its record's input" in text
    assert "colour" in text


def test_weights_that_give_infinite_features_are_refused(moco_file):
    def diverge(content):
        content["state_dict"]["module.encoder_q.bn1.weight"].fill_(float("inf"))

    assert "are not finite, so no protocol can use them" in refusal(moco_file(diverge))


def test_half_precision_weights_load_in_full_precision(tmp_path, backbone):
    path = tmp_path / "half.pth"
    half = {n: t.half() if t.is_floating_point() else t for n, t in backbone.items()}
    torch.save({"arch": ARCH, "state_dict": half}, path)
    encoder = load_encoder(str(path))
    assert_holds(encoder, {n: t.float() if t.dtype == torch.half else t for n, t in half.items()})
    assert encoder.tensors()["conv1.weight"].dtype == torch.float32


def test_a_manifest_is_plain_data(moco_file):
    manifest = load_encoder(moco_file()).manifest
    assert json.loads(json.dumps(dataclasses.asdict(manifest)))["arch"] == ARCH
