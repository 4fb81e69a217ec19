"""Swin transformers for Detectron2: names, refusals, and its own view of them."""

import pytest
import torch
import yaml

from moco_eval.convert import convert
from moco_eval.encoders.exports import swin as target
from moco_eval.engines import has_detectron2
from moco_eval.errors import UsageError

LIBRARY = "detectron2" if has_detectron2() else "moco-eval"
# Two stages of two blocks; windows of 4 x 4 patches on maps of 8 x 8 and 4 x 4.
TINY = "depths=[2,2],embed_dim=16,img_size=32,num_heads=[2,4],window_size=4"


@pytest.fixture
def swin(scrambled):
    def make(options=""):
        return scrambled(f"timm:swin_tiny_patch4_window7_224:{TINY}{options}", size=32)

    return make


def test_the_last_level_is_timms_and_names_are_the_authors(tmp_path, swin):
    path = tmp_path / "target.pth"
    proof = convert(swin(), path, "detectron2")
    assert proof["reloaded_in"] == LIBRARY
    assert proof["relative_difference"]["p1"] < 1e-5
    model = torch.load(path, weights_only=True)["model"]
    # timm merges patches at the beginning of stage 1, Detectron2 at the end of stage 0.
    assert "layers.0.downsample.reduction.weight" in model
    assert not [name for name in model if name.startswith(("layers.1.downsample", "norm.", "head"))]
    assert "norm1.weight" in model
    assert yaml.safe_load(path.with_name("target.pth.yaml").read_text())["SWIN"] == {
        "patch_size": 4,
        "in_chans": 3,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "norm_eps": 1e-5,
    }


def test_without_detectron2_the_file_is_reloaded_here(tmp_path, swin):
    encoder = swin()
    convert(encoder, tmp_path / "target.pth", "detectron2")
    plan = target.plan_of(encoder)
    found = target.reload_without_detectron2(plan, tmp_path / "target.pth")
    images = torch.randn(1, 3, 64, 64)
    expected = target.prepare(encoder).expected.outputs(images)["p1"]
    # 16 channels, twice as many after a merging; 64 / 4 / 2 patches.
    assert expected.shape == (1, 32, 8, 8)
    assert torch.equal(found.outputs(images)["p1"], expected)


def test_windows_of_several_sizes_are_refused(tmp_path, scrambled):
    # On maps of 8 x 8 and 4 x 4 patches timm makes windows of 8 and of 4.
    options = TINY.replace("window_size=4", "window_size=8")
    encoder = scrambled(f"timm:swin_tiny_patch4_window7_224:{options}", size=32)
    with pytest.raises(UsageError, match=r"it has windows of \[\(4, 4\), \(8, 8\)\]"):
        convert(encoder, tmp_path / "target.pth", "detectron2")
    assert not list(tmp_path.iterdir())
