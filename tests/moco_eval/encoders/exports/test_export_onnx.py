"""ONNX graphs, and ONNX Runtime's own view of them."""

import importlib.util
import json

import pytest
import torch

from moco_eval.convert import convert
from moco_eval.encoders.exports import onnx
from moco_eval.errors import UsageError

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx.PACKAGES),
    reason="ONNX is not installed",
)


@pytest.fixture
def convert_apart(on_ranks):
    """``convert`` in a process of its own: after torch.export a process cannot fork others that
    run a backward pass, as tests of several ranks do."""

    def run(*arguments):
        (proof,) = on_ranks(1, convert, *arguments)
        return proof

    return run


@needs_onnx
def test_a_graph_takes_any_number_of_images_and_says_how_it_is_fed(
    tmp_path, scrambled, convert_apart
):
    import onnx
    import onnxruntime

    encoder = scrambled("resnet10_small", size=32, mean=(0.3,) * 3, channel_order="BGR")
    proof = convert_apart(encoder, tmp_path / "small.onnx", "onnx")
    assert proof["relative_difference"]["features"] < 1e-4
    assert proof["reloaded_in"] == f"onnxruntime {onnxruntime.__version__}"
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"))
    images = torch.randn(5, 3, 32, 32)
    (features,) = session.run(["features"], {"images": images.numpy()})
    expected = encoder.features(images)
    assert torch.allclose(torch.from_numpy(features), expected, atol=1e-4 * expected.abs().max())
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert json.loads(said["mean"]) == [0.3, 0.3, 0.3]
    assert json.loads(said["channel_order"]) == "BGR"
    assert json.loads(said["moco_eval"])["tensor_sha256"] == encoder.tensor_sha256()


@needs_onnx
def test_a_transformer_becomes_a_graph_too(tmp_path, tiny_vit, convert_apart):
    proof = convert_apart(tiny_vit(), tmp_path / "vit.onnx", "onnx")
    assert 0 <= proof["relative_difference"]["features"] < 1e-4


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, scrambled, monkeypatch):
    # What the import system finds where a package is absent.
    monkeypatch.setattr(onnx, "PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(UsageError, match=r"needs no_such_package. Install: pip install 'moco-eval"):
        convert(scrambled("resnet10_small", size=32), tmp_path / "small.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_weights_beyond_one_files_size_are_refused(tmp_path, scrambled, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ())
    monkeypatch.setattr(onnx, "LIMIT_BYTES", 1000)
    with pytest.raises(UsageError, match="an ONNX file holds at most 1000"):
        convert(scrambled("resnet10_small", size=32), tmp_path / "small.onnx", "onnx")
