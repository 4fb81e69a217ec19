"""Files of MoCo and of this project's own programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from layouts.layout import WORTHLESS, Layout, Written, randomised, saved, under, without, worthless
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.exports.export import record_of, safetensors_bytes, tensors_of
from moco_eval.encoders.networks import build_network
from moco_eval.encoders.reading.reader import RECORD

MOCO = "facebookresearch/moco@7397dfe: moco/builder.py, main_moco.py"
MOCO_V3 = "facebookresearch/moco-v3@c349e6e: moco/builder.py, main_moco.py"
HEAD = {"fc.0.weight": torch.full((8, 512), WORTHLESS), "fc.2.bias": torch.full((8,), WORTHLESS)}
FED = InputSpec(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def _moco(folder: Path, taken: str = "encoder_q") -> Written:
    network, state = resnet()
    other = "encoder_k" if taken == "encoder_q" else "encoder_q"
    content = {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": {
            **under(f"module.{taken}.", state | HEAD),
            **under(f"module.{other}.", worthless(state | HEAD)),
            "module.queue": torch.full((8, 16), WORTHLESS),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        },
        "optimizer": {},
    }
    return Written(
        path=saved(folder / "checkpoint_0199.pth.tar", content),
        expected=state,
        arch="resnet18",
        input=InputSpec(),
        tower=taken,
        hints={} if taken == "encoder_q" else {"tower": taken},
        author=network,
    )


def _key_encoder(folder: Path) -> Written:
    return _moco(folder, taken="encoder_k")


def _moco_v3(folder: Path, arch: str, state, head) -> dict[str, object]:
    content = {
        "epoch": 300,
        "arch": arch,
        "state_dict": {
            **under("module.base_encoder.", state | head),
            **under("module.momentum_encoder.", worthless(state | head)),
            "module.predictor.0.weight": torch.full((8, 8), WORTHLESS),
        },
        "optimizer": {},
        "scaler": {},
    }
    path = saved(folder / "checkpoint_0299.pth.tar", content)
    return {"path": path, "expected": state, "input": InputSpec(), "tower": "base_encoder"}


def _moco_v3_resnet(folder: Path) -> Written:
    network, state = resnet()
    return Written(**_moco_v3(folder, "resnet18", state, HEAD), arch="resnet18", author=network)


def _moco_v3_vit(folder: Path) -> Written:
    network = randomised(build_network("vit_small_mocov3"))
    head = {"head.0.weight": torch.full((8, 384), WORTHLESS)}
    parts = _moco_v3(folder, "vit_small", network.state_dict(), head)
    return Written(**parts, arch="vit_small_mocov3", author=network)


def _converted(folder: Path) -> Written:
    network = randomised(build_network("resnet18"))
    manifest = Manifest(
        source="mine.pth",
        format="moco",
        tower="encoder_q",
        arch="resnet18",
        input=FED,
        num_loaded=0,
    )
    encoder = Encoder(network, manifest)
    path = folder / "mine.safetensors"
    path.write_bytes(safetensors_bytes(tensors_of(encoder), record_of(encoder, "resnet18")))
    return Written(path=path, expected=network.state_dict(), arch="resnet18", input=FED)


def _supervised(folder: Path) -> Written:
    arch = "timm:convnext_atto"
    network = randomised(build_network(arch, num_classes=3))
    state = network.state_dict()
    state |= worthless({name: state[name] for name in ("head.fc.weight", "head.fc.bias")})
    content = {
        "epoch": 1,
        "arch": arch,
        "state_dict": under("module.", state),
        RECORD: {"input": dataclasses.asdict(FED), "method": "supervised"},
    }
    path = saved(folder / "checkpoint.pth.tar", content)
    return Written(path=path, expected=without(state, "head.fc."), arch=arch, input=FED)


LAYOUTS = tuple(
    Layout(format=format, case=case, evidence=evidence, by=by, write=write)
    for format, case, evidence, by, write in (
        ("moco", "query encoder", "synthetic", MOCO, _moco),
        ("moco", "key encoder", "synthetic", MOCO, _key_encoder),
        ("mocov3", "ResNet", "synthetic", MOCO_V3, _moco_v3_resnet),
        ("mocov3", "ViT", "synthetic", MOCO_V3, _moco_v3_vit),
        ("moco-eval", "safetensors", "library", "moco-eval convert", _converted),
        ("moco-pretrain", "ConvNeXt", "synthetic", "pretrain/train.py", _supervised),
    )
)
