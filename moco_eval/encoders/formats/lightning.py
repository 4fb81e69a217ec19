"""Checkpoints of PyTorch Lightning whose module nobody knows."""

from __future__ import annotations

from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Tower

# What such modules call their networks; what leads the names is the attribute's name.
_NAMES = ("model", "backbone", "encoder", "net", "student", "teacher", "online_network")

LIGHTNING = (
    Format(
        name="lightning",
        title="PyTorch Lightning, any module with one network under a usual name",
        towers=tuple(
            Tower(name=name, containers=(("state_dict",),), prefixes=(f"{name}.",))
            for name in _NAMES
        ),
        equal_towers=True,
        says=(("pytorch-lightning_version",),),
        drop=(
            *("criterion.*", "loss*", "classifier.*", "head.*", "projector.*", "*metrics*"),
            f"{CLASSIFIER}.*",
        ),
        source=(
            "Lightning-AI/pytorch-lightning@7f0c3436cd: trainer/connectors/checkpoint_connector.py"
        ),
    ),
)
