"""What training frameworks write and no encoder can be made of without a word more: each text."""

import pytest
import torch
from layouts.lightly import checkpoint_of, spoiled, torchvision_resnet
from layouts.openmmlab import v1d
from layouts.resnets import resnet

from moco_eval.encoders.load import load_encoder
from moco_eval.errors import CheckpointError, UsageError


def refusal_of(path, error=CheckpointError, **hints):
    with pytest.raises(error) as caught:
        load_encoder(str(path), **hints)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["shard", "shard_list", "slice", "slice_list"])
def test_a_part_of_vissls_is_refused_by_its_name_and_no_path_in_it_is_opened(tmp_path, kind):
    # Were the path followed, the refusal would speak of that file.
    paths = [str(tmp_path / "no-such-file.torch")]
    trunk = {"_feature_blocks.conv1.weight": paths[0], "bn": torch.zeros(3)}
    content = {
        "type": kind,
        "shards": paths,
        "classy_state_dict": {"base_model": {"model": {"trunk": trunk}}},
    }
    torch.save(content, tmp_path / "model.torch")
    assert refusal_of(tmp_path / "model.torch") == (
        f"{tmp_path}/model.torch is a {kind} of VISSL's, expected a consolidated checkpoint: the "
        "tensors lie in pieces in several files. Put them together where VISSL is installed, with "
        "sharded_to_consolidated_checkpoint of vissl/utils/checkpoint.py."
    )


@pytest.mark.parametrize(
    "name", ["_fsdp_wrapped_module.layer1._flat_param", "_fpw_module.flat_param_0"]
)
def test_a_process_share_of_fsdps_is_refused_whatever_lies_beside_it(tmp_path, name):
    content = {"model": {**resnet()[1], name: torch.zeros(7)}, "epoch": 3}
    torch.save(content, tmp_path / "rank_0.pth")
    assert refusal_of(tmp_path / "rank_0.pth") == (
        f"{tmp_path}/rank_0.pth holds what one process of FSDP had: {name} is a cut of many "
        "tensors in one, and the other cuts lie in the other processes' files. Save the whole "
        "network: a full state dict (torch's StateDictType.FULL_STATE_DICT), or a folder of "
        "torch.distributed.checkpoint."
    )


def test_lightnings_student_and_teacher_are_asked_about(tmp_path):
    pytest.importorskip("pytorch_lightning")
    network = torchvision_resnet()
    parts = {"student": network, "teacher": spoiled(network)}
    path = checkpoint_of(parts, tmp_path / "last.ckpt")
    assert refusal_of(path, UsageError, input="imagenet") == (
        f"{path} holds several networks, student and teacher, and its format 'lightning' does not "
        "say which one is meant. Say it: --tower NAME."
    )


def test_a_lightning_file_without_its_normalisation_is_asked_about(tmp_path):
    pytest.importorskip("pytorch_lightning")
    path = checkpoint_of({"backbone": torchvision_resnet()}, tmp_path / "last.ckpt")
    text = refusal_of(path)
    assert text.startswith(
        f"{path} does not say how its images are normalised, and format 'lightning' has no rule "
        "for it. Say "
    )
    assert "--input imagenet, --input half or --input mean=R/G/B,std=R/G/B" in text


def test_several_normalisations_in_one_configuration_are_asked_about(tmp_path):
    text = "a = dict(mean=[0.5, 0.5, 0.5], std=[1, 1, 1])\nb = dict(mean=[0.4, 0.4, 0.4])"
    state = {f"backbone.{name}": tensor for name, tensor in resnet()[1].items()}
    meta = {"mmengine_version": "0.10.7", "cfg": text}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "epoch_1.pth")
    assert "does not say how its images are normalised" in refusal_of(tmp_path / "epoch_1.pth")
    # As soon as the user says it, nothing else stands in the way.
    assert load_encoder(str(tmp_path / "epoch_1.pth"), input="half").arch == "resnet18"


def test_mmpretrains_deep_stem_without_pooling_in_its_shortcuts_is_refused(tmp_path):
    # V1c: the convolution stands where V1d has the pooling, which has no tensors.
    _, state = v1d()
    for name in [name for name in state if ".downsample." in name and "layer1" not in name]:
        module, place, rest = name.partition(".downsample.")
        state[f"{module}{place}{int(rest[0]) - 1}{rest[1:]}"] = state.pop(name)
    state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    meta = {"mmengine_version": "0.10.7", "cfg": "model = dict(type='ResNetV1c')"}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "epoch_1.pth")
    assert "missing (" in (text := refusal_of(tmp_path / "epoch_1.pth", arch="timm:resnet18d"))
    assert "claimed by no rule: backbone.layer2.0.downsample.0.weight" in text
