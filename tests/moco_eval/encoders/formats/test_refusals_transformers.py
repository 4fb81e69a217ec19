"""What is refused, or asked about, of transformers' files, each with its text."""

import json

import pytest
import torch
from layouts import distillation, huggingface, masked
from layouts.layout import saved, under
from layouts.vits import TINY, transformer, wrong

from moco_eval.encoders.load import load_encoder
from moco_eval.errors import CheckpointError


def refusal(path, **hints):
    with pytest.raises(CheckpointError) as raised:
        load_encoder(str(path), **hints)
    return str(raised.value)


def changed(path, name, **changes):
    """The folder, whose configuration ``name`` says something else; None takes it away."""
    config = json.loads((path / name).read_text())
    config = {key: value for key, value in (config | changes).items() if value is not None}
    (path / name).write_text(json.dumps(config))
    return path


@pytest.fixture
def hf_vit(tmp_path):
    pytest.importorskip("transformers")
    return huggingface.LAYOUTS[0].write(tmp_path).path


def test_a_bare_vit_is_asked_about_with_the_formats_that_it_may_be(tmp_path):
    _, state = transformer()
    text = refusal(saved(tmp_path / "vit.pth", state))
    assert "vit.pth does not say how its images are normalised" in text
    assert "Say whose it is (--format dino-backbone or ibot-backbone), or how:" in text


def test_a_vit_with_a_classifier_is_no_backbone_of_dino(tmp_path):
    _, state = transformer()
    path = saved(tmp_path / "vit.pth", state | wrong("head.weight"))
    assert "--format" not in refusal(path)
    assert "does not bear the marks of 'dino-backbone'" in refusal(path, format="dino-backbone")


def test_a_bare_vit_is_taken_where_the_user_says_how_it_is_fed(tmp_path):
    _, state = transformer()
    encoder = load_encoder(str(saved(tmp_path / "vit.pth", state)), input="half")
    assert (encoder.manifest.format, encoder.arch) == ("timm-vit", TINY)
    assert (encoder.input.size, encoder.input.mean) == (32, (0.5,) * 3)


def test_an_encoder_384_wide_under_model_may_be_mocos_or_deits(tmp_path):
    _, state = transformer("timm:vit_small_patch16_224:depth=1,img_size=32")
    text = refusal(saved(tmp_path / "vit.pth", {"model": state}))
    assert "is of format 'mae-encoder'" in text
    assert "timm:vit_small_patch16_224" in text
    assert "as well as of vit_small_mocov3, which compute something else" in text
    assert text.endswith("Say it: --arch NAME.")


def test_an_encoder_under_model_that_is_smaller_than_maes_is_not_fed_as_maes(tmp_path):
    _, state = transformer()
    text = refusal(saved(tmp_path / "vit.pth", {"model": state}))
    assert "format 'mae-encoder' has no rule for it" in text
    assert "--format mocov3-deit" in text


def test_a_folder_without_preprocessor_is_asked_how_it_is_fed(hf_vit):
    (hf_vit / "preprocessor_config.json").unlink()
    text = refusal(hf_vit)
    assert "does not say how its images are normalised, and format 'hf-vit' has no rule" in text
    assert load_encoder(str(hf_vit), input="half").input.mean == (0.5,) * 3


@pytest.mark.parametrize("missing", ["image_mean", "image_std", "resample", "size"])
def test_a_preprocessor_that_says_too_little_is_asked_about(hf_vit, missing):
    path = changed(hf_vit, "preprocessor_config.json", **{missing: None})
    assert "does not say how its images are normalised" in refusal(path)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"size": {"height": 32, "width": 48}}, "expected a square"),
        ({"rescale_factor": 1 / 127.5}, "multiplies pixels by 0.0078431 and resamples by 2"),
        ({"do_rescale": False}, "multiplies pixels by 1 and"),
        ({"resample": 1}, "resamples by 1, expected 1/255 and one of"),
    ],
)
def test_a_preprocessor_that_feeds_otherwise_is_refused(hf_vit, said, text):
    found = refusal(changed(hf_vit, "preprocessor_config.json", **said))
    assert "cannot be read as 'hf-vit': its preprocessor_config.json" in found
    assert text in found


def test_images_that_are_not_normalised_stay_on_0_to_1(hf_vit):
    fed = load_encoder(str(changed(hf_vit, "preprocessor_config.json", do_normalize=False))).input
    assert (fed.mean, fed.std) == ((0.0,) * 3, (1.0,) * 3)


def test_names_of_hugging_faces_without_a_configuration_need_the_folder(tmp_path, hf_vit):
    alone = (hf_vit / "model.safetensors").rename(tmp_path / "alone.safetensors")
    text = refusal(alone)
    assert "cannot be read as 'hf-vit': its heads, its LayerNorms' eps and its activation" in text
    assert text.endswith("Pass the folder that holds both, or say --arch NAME.")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"model_type": "yolos"}, "says model_type yolos, expected one of vit, vit_mae, "),
        ({"hidden_act": "tanh"}, "its activation is tanh, expected one of gelu, quick_gelu, "),
    ],
)
def test_a_configuration_of_another_network_is_refused(hf_vit, said, text):
    assert text in refusal(changed(hf_vit, "config.json", **said))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"rope_theta": 10.0}, "its config.json says rope_theta 10.0, expected 100.0."),
        ({"use_gated_mlp": True}, "its config.json says hidden_act gelu, expected silu."),
    ],
)
def test_a_dinov3_that_timm_does_not_build_is_refused(tmp_path, said, text):
    pytest.importorskip("transformers")
    layout = next(layout for layout in huggingface.LAYOUTS if layout.format == "hf-dinov3")
    assert text in refusal(changed(layout.write(tmp_path).path, "config.json", **said))


def test_strides_of_a_hugging_face_resnet_are_not_guessed(tmp_path):
    pytest.importorskip("transformers")
    layout = next(layout for layout in huggingface.LAYOUTS if layout.format == "hf-resnet")
    path = layout.write(tmp_path).path
    strided = changed(path, "config.json", downsample_in_first_stage=True)
    assert "says downsample_in_first_stage True, expected False" in refusal(strided)
    (path / "model.safetensors").rename(tmp_path / "alone.safetensors")
    text = refusal(tmp_path / "alone.safetensors")
    assert "where its strides stand is said by config.json, which is not there" in text


@pytest.mark.parametrize("container", ["", "state_dict"])
def test_clips_resnet_is_refused_by_name(tmp_path, container):
    names = ("conv1.weight", "conv3.weight", "layer1.0.conv1.weight", "attnpool.q_proj.weight")
    state = under("visual.", wrong(*names)) | wrong("ln_final.weight")
    path = saved(tmp_path / "RN50.pt", {container: state} if container else state)
    text = refusal(path)
    assert "is of format 'clip-resnet', CLIP's ResNets, of OpenAI and open_clip: " in text
    assert text.endswith("the same network from timm: timm:resnet50_clip.openai.")


def test_whether_clip_has_quick_gelu_is_not_guessed(tmp_path):
    tensors = {
        "visual.conv1.weight": torch.zeros(64, 3, 16, 16),
        "visual.class_embedding": torch.zeros(64),
        "visual.positional_embedding": torch.zeros(5, 64),
        "visual.transformer.resblocks.0.ln_1.weight": torch.zeros(64),
    }
    text = refusal(saved(tmp_path / "clip.pt", {"state_dict": tensors}))
    assert "whether it has QuickGELU, and how it pools, is said by open_clip_config.json" in text
    assert "--arch timm:vit_base_patch32_clip_224 or timm:vit_base_patch32_clip_quickgelu_" in text


def test_a_tower_that_is_absent_is_refused_with_those_that_are_there(tmp_path):
    layout = next(layout for layout in masked.LAYOUTS if layout.case == "no target encoder")
    text = refusal(layout.write(tmp_path).path, tower="target_encoder")
    assert "holds no tower 'target_encoder'. It is of format 'msn' and holds encoder." in text


def test_dinov3s_large_network_may_be_fed_in_two_ways(tmp_path):
    arch = "timm:vit_large_patch16_dinov3_qkvb:depth=1,global_pool=token"
    _, state, theirs = distillation.dinov3_state(arch)
    path = saved(tmp_path / "dinov3_vitl16_pretrain_sat493m.pth", theirs)
    assert "does not say how its images are normalised, and format 'dinov3'" in refusal(path)
    encoder = load_encoder(str(path), input="sat493m")
    assert encoder.arch == arch
    assert (encoder.input.size, encoder.input.mean) == (256, (0.430, 0.411, 0.296))
    assert torch.equal(encoder.tensors()["norm.weight"], state["norm.weight"])


def test_a_dinov3_with_other_positions_or_with_a_bias_of_keys_is_refused(tmp_path):
    _, _, theirs = distillation.dinov3_state(distillation.V3)
    other = theirs | {"rope_embed.periods": theirs["rope_embed.periods"] * 1.1}
    text = refusal(saved(tmp_path / "periods.pth", other))
    assert "its rotary positions' periods are not 1 to 100 as DINOv3's: [1.1, " in text
    biased = theirs | {"blocks.1.attn.qkv.bias_mask": torch.ones(192)}
    text = refusal(saved(tmp_path / "biased.pth", biased))
    assert "the keys of blocks.1.attn have a bias, and DINOv3's have none." in text


def test_two_thirds_of_an_attention_are_refused(tmp_path, hf_vit):
    state = {
        name: tensor
        for name, tensor in torch.load(
            huggingface.LAYOUTS[1].write(_new(tmp_path)).path / "pytorch_model.bin",
            weights_only=True,
        ).items()
        if name != "vit.layers.1.attention.k_proj.bias"
    }
    (hf_vit / "model.safetensors").unlink()
    saved(hf_vit / "pytorch_model.bin", state)
    assert "it lacks blocks.1.attn.k.bias, which is joined with others." in refusal(hf_vit)


def _new(folder):
    new = folder / "new"
    new.mkdir()
    return new
