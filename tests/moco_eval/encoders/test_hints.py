"""What a user says of a checkpoint: its tower, its prefix, how it is fed."""

import dataclasses

import pytest
import torch

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.encoders.formats.inputs import HALF
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.networks import build_network
from moco_eval.errors import CheckpointError, UsageError
from pretrain.moco import MoCo

ARCH = "resnet10_small"


@pytest.fixture
def backbone():
    torch.manual_seed(5)
    return build_network(ARCH).state_dict()


@pytest.fixture
def moco_file(tmp_path, backbone):
    """Writes a MoCo checkpoint; the query encoder's backbone is all that is not -9."""
    path = tmp_path / "checkpoint.pth.tar"

    def write(edit=lambda content: None):
        model = MoCo(ARCH, 8, 16, 0.99, 0.2, True)
        state = {f"module.{n}": torch.full_like(t, -9) for n, t in model.state_dict().items()}
        state |= {f"module.encoder_q.{name}": tensor for name, tensor in backbone.items()}
        content = {"epoch": 1, "arch": ARCH, "state_dict": state}
        edit(content)
        torch.save(content, path)
        return str(path)

    return write


def refusal(spec, **options):
    with pytest.raises(CheckpointError) as caught:
        load_encoder(str(spec), **options)
    return str(caught.value)


def assert_holds(encoder, tensors):
    ours = encoder.tensors()
    assert ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(ours[name], tensor), name


def test_the_key_encoder_is_taken_where_the_user_asks_for_it(moco_file, backbone):
    def exchange(content):
        state = content["state_dict"]
        for name in backbone:
            query, key = f"module.encoder_q.{name}", f"module.encoder_k.{name}"
            state[query], state[key] = state[key], state[query]

    path = moco_file(exchange)
    encoder = load_encoder(path, tower="encoder_k")
    assert_holds(encoder, backbone)
    assert encoder.manifest.tower == "encoder_k"
    assert "module.encoder_q.conv1.weight" in encoder.manifest.dropped
    text = refusal(path, tower="teacher")
    assert "holds no tower 'teacher'" in text
    assert "'moco' and holds encoder_q and encoder_k." in text


def test_another_authors_layout_loads_by_its_prefix_with_the_rest_dropped(tmp_path, backbone):
    path = tmp_path / "own.ckpt"
    state = {f"net.trunk.{name}": tensor for name, tensor in backbone.items()}
    state |= {"net.loss.scale": torch.zeros(1)}
    torch.save({"weights": {"of": state}}, path)
    encoder = load_encoder(str(path), prefix="net.trunk.", input="digits")
    assert_holds(encoder, backbone)
    assert (encoder.arch, encoder.input) == (ARCH, DIGITS_INPUT)
    assert encoder.manifest.dropped == ("net.loss.scale",)
    # How it is fed is not guessed.
    assert "does not say how its images are normalised" in refusal(path, prefix="net.trunk.")
    assert "--prefix net.trunc. leads no tensor's name" in refusal(path, prefix="net.trunc.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("swav", InputSpec(size=32, std=(0.228, 0.224, 0.225))),
        ("half,crop_pct=1", dataclasses.replace(HALF, size=32, crop_pct=1.0)),
        ("channel_order=BGR", dataclasses.replace(DIGITS_INPUT, channel_order="BGR")),
    ],
)
def test_the_user_says_how_an_encoder_is_fed(moco_file, text, expected):
    record = {"input": dataclasses.asdict(DIGITS_INPUT)}
    path = moco_file(lambda content: content.update(moco_eval=record))
    assert load_encoder(path, input=text).input == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", "Did you mean 'imagenet'?"),
        ("sise=3", "Did you mean 'size'?"),
        ("size=big", "big is no size"),
        ("mean=0.5,std=0.5/0.5", "of different numbers of channels"),
        ("interpolation=nearest", "expected bilinear or bicubic"),
    ],
)
def test_an_input_that_is_none_is_refused(moco_file, text, message):
    with pytest.raises(UsageError) as caught:
        load_encoder(moco_file(), input=text)
    assert message in str(caught.value)
