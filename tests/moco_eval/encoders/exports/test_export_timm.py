"""Files and folders for timm, and timm's own view of them."""

import json
from dataclasses import replace

import pytest
import timm
import torch

from moco_eval.convert import convert
from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports.timm import recipe_of
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import build_network
from moco_eval.errors import UsageError


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_timm_takes_the_file_as_its_checkpoint(tmp_path, scrambled, name):
    encoder = scrambled("resnet18")
    proof = convert(encoder, tmp_path / name, "timm")
    assert (proof["arch"], proof["reloaded_in"]) == ("timm:resnet18", f"timm {timm.__version__}")
    assert set(proof["relative_difference"].values()) == {0.0}
    network = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / name))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), encoder.features(images))
    back = load_encoder(str(tmp_path / name))
    assert back.tensor_sha256() == encoder.tensor_sha256()
    assert back.input == encoder.input


def test_a_folder_is_what_the_hub_holds_and_carries_how_it_is_fed(tmp_path, tiny_vit):
    fed = {"mean": (0.5, 0.25, 0.125), "std": (0.1, 0.2, 0.3), "interpolation": "bicubic"}
    encoder = tiny_vit("global_pool=avg,init_values=0.1", **fed, crop_pct=0.9)
    folder = tmp_path / "vit"
    proof = convert(encoder, folder, "hf")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert (config["num_classes"], config["num_features"]) == (0, 32)
    assert config["model_args"] == {
        "depth": 2,
        "embed_dim": 32,
        "global_pool": "avg",
        "img_size": 64,
        "init_values": 0.1,
        "num_heads": 2,
    }
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), encoder.features(images))
    resolved = timm.data.resolve_model_data_config(network)
    assert resolved["input_size"] == (3, 64, 64)
    assert tuple(resolved["mean"]) == fed["mean"]
    assert tuple(resolved["std"]) == fed["std"]
    assert (resolved["interpolation"], resolved["crop_pct"]) == ("bicubic", 0.9)
    back = load_encoder(str(folder))
    assert back.tensor_sha256() == proof["tensor_sha256"] == encoder.tensor_sha256()
    assert back.input == encoder.input


def test_another_programs_folder_of_the_same_config_is_the_same_encoder(tmp_path, tiny_vit):
    from safetensors.torch import load_file, save_file

    encoder = tiny_vit("global_pool=avg")
    convert(encoder, tmp_path / "vit", "hf")
    weights = tmp_path / "vit" / "model.safetensors"
    # Without our record, config.json alone must say it.
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    back = load_encoder(str(tmp_path / "vit"))
    assert back.tensor_sha256() == encoder.tensor_sha256()
    assert back.input == encoder.input
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(back.features(images), encoder.features(images))


def test_the_model_card_says_what_it_is_and_where_it_comes_from(tmp_path, scrambled):
    encoder = scrambled("resnet18", crop_pct=0.5)
    convert(encoder, tmp_path / "r18", "hf")
    card = (tmp_path / "r18" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    for line in (
        "| source | source.pth |",
        "| format | moco, tower encoder_q |",
        "| SHA-256 of the source file | ab |",
        f"| SHA-256 of the tensors | {encoder.tensor_sha256()} |",
        # 64 of 0.5 of the short side.
        "| images | short side resized to 128 (bilinear), centre 64 |",
        "| mean | 0.485, 0.456, 0.406 |",
        "| licence | not known: ask the author of the weights |",
        "| training: method | moco |",
    ):
        assert line in card
    assert 'timm.create_model("local-dir:FOLDER", pretrained=True)' in card


def test_gray_images_stay_gray_in_timm(tmp_path, make_encoder):
    fed = InputSpec(size=64, mean=(0.5,), std=(0.25,))
    manifest = replace(make_encoder().manifest, arch="resnet18", input=fed)
    encoder = Encoder(build_network("resnet18", in_chans=1), manifest)
    convert(encoder, tmp_path / "gray.pth", "timm")
    convert(encoder, tmp_path / "gray", "hf")
    network = timm.create_model(f"local-dir:{tmp_path / 'gray'}", pretrained=True)
    assert network.conv1.weight.equal(encoder.network.conv1.weight)
    assert network.pretrained_cfg["mean"] == [0.5]


@pytest.mark.parametrize("target", ["timm", "hf"])
def test_what_timm_cannot_build_is_refused_with_the_reason(tmp_path, on_meta, target):
    path = tmp_path / ("x.safetensors" if target == "timm" else "x")
    for arch in ("resnet10_small", "resnet50_w2x", "resnet18_cifar", "vit_conv_small_mocov3"):
        with pytest.raises(UsageError, match=rf"{arch} cannot be written for timm: timm has no"):
            convert(on_meta(arch), path, target)
    assert not list(tmp_path.iterdir())


def test_an_eps_that_no_argument_of_timms_says_is_refused(tmp_path, tiny_vit):
    text = r"LayerNorms have an eps of \[1e-05\], timm's vit_tiny_patch16_224 of \[1e-06\]"
    with pytest.raises(UsageError, match=text):
        convert(tiny_vit("norm_eps=1e-05"), tmp_path / "vit", "hf")
    # Said, but timm's own.
    assert "norm_eps" not in recipe_of(tiny_vit("norm_eps=1e-06")).options


def test_a_channel_order_that_timm_cannot_be_told_is_refused(tmp_path, scrambled):
    encoder = scrambled("resnet18", channel_order="BGR")
    with pytest.raises(UsageError, match=r"is fed BGR, which config.json cannot say"):
        convert(encoder, tmp_path / "bgr", "hf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("vit_base_mocov3", {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16}),
        # timm's own has 6 heads.
        ("vit_small_mocov3", {"embed_dim": 384, "depth": 12, "num_heads": 12, "patch_size": 16}),
    ],
)
def test_mocos_transformers_are_timms_with_other_numbers(on_meta, arch, options):
    assert recipe_of(on_meta(arch)).options == options


def test_mocos_small_transformer_runs_in_timm(tmp_path, scrambled):
    encoder = scrambled("vit_digits", size=32)
    for name, target in (("digits", "hf"), ("digits.safetensors", "timm")):
        proof = convert(encoder, tmp_path / name, target)
        assert proof["relative_difference"]["features"] < 1e-5
    # timm's own is for 224 pixels.
    assert recipe_of(encoder).options["img_size"] == 32
