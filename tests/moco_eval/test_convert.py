"""The command's module: written, reloaded, compared, only then put there."""

import dataclasses
import errno
import runpy
import sys
from pathlib import Path

import pytest
import torch

from moco_eval import convert as module
from moco_eval.convert import TARGETS, convert
from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.exports import export
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import OutputError, UsageError

ENDINGS = {"hf": "", "onnx": ".onnx", "safetensors": ".safetensors", "timm": ".safetensors"}


def refusal(error, encoder, path, target, **options):
    with pytest.raises(error) as caught:
        convert(encoder, path, target, **options)
    return str(caught.value)


@pytest.mark.parametrize("target", ["safetensors", "torchvision"])
def test_a_file_gives_the_encoder_back_with_how_it_is_fed(tmp_path, make_encoder, target):
    encoder = make_encoder()
    path = tmp_path / f"encoder{ENDINGS.get(target, '.pth')}"
    proof = convert(encoder, path, target)
    levels = {"features", "res2", "res3", "res4", "res5"}
    assert proof["relative_difference"] == dict.fromkeys(levels, 0.0)
    assert proof["num_tensors"] == len(encoder.tensors())
    reloaded = load_encoder(str(path))
    # One hash whatever the file, so that records of all of them are of one encoder.
    assert reloaded.tensor_sha256() == proof["tensor_sha256"] == encoder.tensor_sha256()
    assert (reloaded.arch, reloaded.input) == ("resnet10_small", DIGITS_INPUT)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("target", ["timm", "hf", "detectron2"])
def test_the_same_holds_for_other_programs_files(tmp_path, make_encoder, target):
    fed = InputSpec(size=64, mean=(0.1, 0.2, 0.3), crop_pct=1.0)
    encoder = make_encoder("resnet18", fed)
    path = tmp_path / f"encoder{ENDINGS.get(target, '.pth')}"
    proof = convert(encoder, path, target)
    assert max(proof["relative_difference"].values()) <= 1e-5
    reloaded = load_encoder(str(path))
    assert reloaded.tensor_sha256() == proof["tensor_sha256"] == encoder.tensor_sha256()
    assert reloaded.input == fed
    beside = {"encoder.pth.yaml"} if target == "detectron2" else set()
    assert {left.name for left in tmp_path.iterdir()} == {path.name} | beside


def test_the_global_random_state_stays(tmp_path, make_encoder):
    # torchvision draws fresh weights before it loads these.
    encoder = make_encoder("resnet18", InputSpec(size=64))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    convert(encoder, tmp_path / "x.pth", "torchvision")
    assert torch.equal(torch.rand(3), expected)


def broken(encoder, tmp_path, monkeypatch, change):
    """What is said where a library gives back other tensors than were written."""

    def reload(path):
        found = export.reload_here(path)
        return dataclasses.replace(found, **change(found))

    def prepare(encoder):
        return dataclasses.replace(export.prepare_safetensors(encoder), reload=reload)

    target = TARGETS["safetensors"]._replace(prepare=prepare)
    monkeypatch.setitem(module.TARGETS, "safetensors", target)
    text = refusal(UsageError, encoder, tmp_path / "x.safetensors", "safetensors")
    assert not list(tmp_path.iterdir())
    return text


def test_a_convolution_that_comes_back_fresh_is_found(tmp_path, make_encoder, monkeypatch):
    # As where a program only warns of names that it does not know: BatchNorm's tensors would be
    # equal in many places all the same.
    def change(found):
        name = "layer2.0.conv1.weight"
        return {"tensors": {**found.tensors, name: torch.rand_like(found.tensors[name])}}

    text = broken(make_encoder(), tmp_path, monkeypatch, change)
    assert "layer2.0.conv1.weight came back changed" in text


def test_a_tensor_that_is_lost_and_one_that_is_new_are_found(tmp_path, make_encoder, monkeypatch):
    def change(found):
        tensors = dict(found.tensors)
        tensors["layer9.weight"] = tensors.pop("layer4.0.bn2.bias")
        return {"tensors": tensors}

    text = broken(make_encoder(), tmp_path, monkeypatch, change)
    assert "layer4.0.bn2.bias did not come back; layer9.weight came back besides" in text


def test_features_that_are_no_numbers_are_found(tmp_path, make_encoder, monkeypatch):
    def change(found):
        def outputs(images):
            levels = found.outputs(images)
            return levels | {"res4": levels["res4"] * float("nan")}

        return {"outputs": outputs}

    text = broken(make_encoder(), tmp_path, monkeypatch, change)
    assert "res4 is off by nan of its largest value (allowed: 1e-05)" in text


def test_what_cannot_be_written_is_said_before_anything_is(tmp_path, make_encoder):
    small = make_encoder()
    text = refusal(UsageError, small, tmp_path / "x.pth", "torchvison")
    assert "There is no target 'torchvison'. Did you mean 'torchvision'?" in text
    text = refusal(UsageError, small, tmp_path / "x.npz", "detectron2")
    assert "A file for detectron2 ends in .pth or .pt or .pth.tar or .pkl, found x.npz" in text
    text = refusal(UsageError, small, tmp_path / "x.pth", "torchvision", position_size=64)
    assert "Positions are resampled for detectron2 only" in text
    text = refusal(UsageError, small, tmp_path / "x.pth", "detectron2", position_size=64)
    assert "resnet10_small has no positions to resample to 64 pixels" in text
    for target in TARGETS:
        path = tmp_path / f"x{ENDINGS.get(target, '.pth')}"
        text = refusal(UsageError, load_encoder("pixels"), path, target)
        assert "pixels has no weights to write" in text
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_is_not_written_into(tmp_path, make_encoder):
    (tmp_path / "x.pth").mkdir()
    (tmp_path / "r18").mkdir()
    (tmp_path / "r18" / "mine.txt").write_text("kept")
    text = refusal(OutputError, make_encoder(), tmp_path / "x.pth", "torchvision")
    assert "x.pth is there already" in text
    text = refusal(OutputError, make_encoder("resnet18"), tmp_path / "r18", "hf")
    assert "r18 is there already" in text
    assert {path.name for path in tmp_path.rglob("*")} == {"x.pth", "r18", "mine.txt"}


def test_weights_are_not_put_there_where_their_configuration_cannot_be(tmp_path, make_encoder):
    (tmp_path / "x.pth.yaml").mkdir()
    encoder = make_encoder("resnet18", InputSpec(size=64))
    text = refusal(OutputError, encoder, tmp_path / "x.pth", "detectron2")
    assert "x.pth cannot be written: Is a directory" in text
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth.yaml"]


@pytest.mark.parametrize("target", ["safetensors", "torchvision"])
def test_an_unwritable_place_is_an_output_error(tmp_path, make_encoder, target):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / f"x{ENDINGS.get(target, '.pth')}"
    assert f"{path} cannot be written" in refusal(OutputError, make_encoder(), path, target)


@pytest.mark.parametrize("target", ["hf", "detectron2"])
def test_a_full_disk_leaves_nothing(tmp_path, make_encoder, monkeypatch, target):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    path = tmp_path / f"x{ENDINGS.get(target, '.pth')}"
    text = refusal(OutputError, make_encoder("resnet18"), path, target)
    assert f"{path} cannot be written: No space left on device" in text
    assert "MiB are free on that disk" in text
    assert not list(Path(tmp_path).iterdir())


def test_the_scripts_in_tools_go_there_and_back(tmp_path, make_encoder, monkeypatch, capsys):
    tools = Path(__file__).parent.parent.parent / "tools"
    encoder = make_encoder("resnet18", InputSpec())
    state = {f"module.encoder_q.{name}": tensor for name, tensor in encoder.tensors().items()}
    # The other network of the file, and what is no network, must not show.
    state |= {f"module.encoder_k.{name}": tensor + 9 for name, tensor in encoder.tensors().items()}
    state |= {"module.queue": torch.full((128, 8), 1e9), "module.queue_ptr": torch.zeros(1)}
    torch.save({"arch": "resnet18", "state_dict": state}, tmp_path / "moco.pth.tar")
    for script, source, output in (
        ("convert_moco_to_detectron2", "moco.pth.tar", "d2.pth"),
        ("convert_detectron2_to_torchvision", "d2.pth", "r18.pth"),
        ("convert_to_timm", "r18.pth", "folder"),
    ):
        monkeypatch.setattr(sys, "argv", [script, *(str(tmp_path / n) for n in (source, output))])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(tools / f"{script}.py"), run_name="__main__")
        assert ended.value.code == 0, capsys.readouterr().err
        assert encoder.tensor_sha256() in capsys.readouterr().out
    assert load_encoder(str(tmp_path / "folder")).tensor_sha256() == encoder.tensor_sha256()
