"""Every author's naming, as data: a row of ``FORMATS`` says how one layout is read."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from moco_eval.data.images import InputSpec
from moco_eval.encoders.reader import CONFIG, RECORD, CheckpointFile, shortened
from moco_eval.errors import CheckpointError

# Stands in a drop rule for what timm's configuration of the network calls its classifier.
CLASSIFIER = "{classifier}"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One author's way to lay a checkpoint out.

    Rules apply to names from which ``strip_wrappers`` removed what DistributedDataParallel and
    torch.compile put there. In ``marks`` and ``drop`` a ``*`` stands for any characters.

    Attributes:
        name: What errors, manifests and users call it.
        title: What it is, in a few words.
        containers: Where the tensors may lie, as paths of keys; the first that holds some is
            taken. ``()`` is the root.
        root_keys: What every such file says beside its tensors.
        marks: Each matches at least one tensor's name.
        prefix: What leads the names of the tower that is taken.
        drop: The names that are left out.
        rename: Literal pairs of theirs and ours, applied in order; ``^`` begins a name.
        arch: Path to the architecture's name in what the file says; ``()`` where it does not say
            and names and shapes must tell.
        family: What ``build_network`` wants before that name.
        tower: The network that is taken.
        other_tower: The one that is not, where a file holds two.
        input: How such encoders are fed; None where timm's configuration tells.
        source: Where the layout is written down.
    """

    name: str
    title: str
    containers: tuple[tuple[str, ...], ...]
    root_keys: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    prefix: str = ""
    drop: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    arch: tuple[str, ...] = ()
    family: str = ""
    tower: str = "encoder"
    other_tower: str = ""
    input: InputSpec | None = None
    source: str


# Reversible: read backwards it takes torchvision's names to Detectron2's.
DETECTRON2_NAMES = (
    ("^stem.conv1.norm.", "^bn1."),
    ("^stem.conv1.", "^conv1."),
    (".conv1.norm.", ".bn1."),
    (".conv2.norm.", ".bn2."),
    (".conv3.norm.", ".bn3."),
    (".shortcut.norm.", ".downsample.1."),
    (".shortcut.", ".downsample.0."),
    ("^res2.", "^layer1."),
    ("^res3.", "^layer2."),
    ("^res4.", "^layer3."),
    ("^res5.", "^layer4."),
)

# The most specific first: a file belongs to the first row whose marks it bears.
FORMATS = (
    Format(
        name="moco-eval",
        title="a file of moco-eval convert, with its record",
        containers=((),),
        root_keys=(RECORD,),
        arch=(RECORD, "arch"),
        source="moco_eval/encoders/export.py",
    ),
    Format(
        name="moco",
        title="MoCo v1 and v2, and what moco-pretrain writes",
        containers=(("state_dict",),),
        marks=("encoder_q.*",),
        prefix="encoder_q.",
        drop=("encoder_q.fc.*", "encoder_k.*", "queue", "queue_ptr"),
        arch=("arch",),
        tower="encoder_q",
        other_tower="encoder_k",
        input=InputSpec(),
        source="facebookresearch/moco@7397dfe: moco/builder.py, main_lincls.py",
    ),
    Format(
        name="detectron2",
        title="a ResNet converted for Detectron2, as .pth",
        containers=(("model",),),
        marks=("stem.conv1.weight", "res2.*"),
        drop=("stem.fc.*",),
        rename=DETECTRON2_NAMES,
        input=InputSpec(),
        source="facebookresearch/detectron2@02b5c4e2: tools/convert-torchvision-to-d2.py",
    ),
    Format(
        name="timm-training-ema",
        title="a checkpoint of timm's train.py that averaged its weights",
        containers=(("state_dict_ema",),),
        root_keys=("arch", "version", "state_dict_ema"),
        drop=(f"{CLASSIFIER}.*",),
        arch=("arch",),
        family="timm:",
        tower="state_dict_ema",
        other_tower="state_dict",
        source="huggingface/pytorch-image-models 1.0.31: timm/utils/checkpoint_saver.py",
    ),
    Format(
        name="timm-training",
        title="a checkpoint of timm's train.py",
        containers=(("state_dict",),),
        root_keys=("arch", "version"),
        drop=(f"{CLASSIFIER}.*",),
        arch=("arch",),
        family="timm:",
        source="huggingface/pytorch-image-models 1.0.31: timm/utils/checkpoint_saver.py",
    ),
    Format(
        name="timm",
        title="a timm model's folder, as on the Hugging Face hub",
        containers=((),),
        root_keys=(CONFIG,),
        drop=(f"{CLASSIFIER}.*",),
        arch=(CONFIG, "architecture"),
        family="timm:",
        source="huggingface/pytorch-image-models 1.0.31: timm/models/_hub.py",
    ),
    Format(
        name="timm-vit",
        title="bare timm names of a ViT; needs --arch timm:NAME.TAG, which tells how it is fed",
        containers=((), ("model",), ("state_dict",)),
        marks=("patch_embed.proj.weight", "blocks.0.*"),
        drop=(f"{CLASSIFIER}.*",),
        source="huggingface/pytorch-image-models 1.0.31: timm/models/vision_transformer.py",
    ),
    Format(
        name="torchvision",
        title="a torchvision ResNet, bare, under 'model' or under 'state_dict'",
        containers=((), ("model",), ("state_dict",)),
        marks=("conv1.weight", "layer1.0.conv1.weight"),
        drop=("fc.*",),
        arch=("arch",),
        input=InputSpec(),
        source="pytorch/vision 0.29.2: torchvision/models/resnet.py",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A file that a format claims: its tensors under their author's names, and what it says."""

    source: str
    format: Format
    tensors: Mapping[str, Any]
    said: Mapping[str, Any]


def claim(file: CheckpointFile) -> Claim:
    """Find the format of ``file``.

    Raises:
        CheckpointError: If no row of ``FORMATS`` bears its marks, or it holds no tensors.
    """
    said = _facts(file)
    for row in FORMATS:
        if any(key not in said for key in row.root_keys):
            continue
        for container in row.containers:
            tensors = _tensors_at(file.root, container)
            if tensors and _bears(tensors, row):
                return Claim(source=str(file.path), format=row, tensors=tensors, said=said)
    raise _unknown_layout(file)


def strip_wrappers(name: str) -> str:
    """Remove torch.compile's ``_orig_mod`` anywhere and ``module`` at the beginning of a name."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts[:1] == ["module"]:
        del parts[0]
    return ".".join(parts)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a stripped name matches one of a row's patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def to_ours(name: str, row: Format) -> str | None:
    """The canonical name of a stripped one, or None where the row's prefix does not lead it."""
    if not name.startswith(row.prefix):
        return None
    renamed = f"^{name.removeprefix(row.prefix)}"
    for theirs, ours in row.rename:
        renamed = renamed.replace(theirs, ours)
    return renamed.removeprefix("^")


def to_detectron2(name: str) -> str:
    """Detectron2's name of a torchvision ResNet's tensor."""
    renamed = f"^{name}"
    for theirs, ours in DETECTRON2_NAMES:
        renamed = renamed.replace(ours, theirs)
    return renamed.removeprefix("^")


def said_at(said: Any, path: tuple[str, ...]) -> Any:
    """What a file says under a path of keys; None where it says nothing there."""
    for key in path:
        said = said.get(key) if isinstance(said, Mapping) else None
    return said


def _facts(file: CheckpointFile) -> dict[str, Any]:
    """What a file says beside its tensors; JSON in its metadata is parsed."""
    said = {key: value for key, value in file.root.items() if not isinstance(value, Tensor)}
    for key in (CONFIG, RECORD):
        if key in file.metadata:
            try:
                said[key] = json.loads(file.metadata[key])
            except json.JSONDecodeError as error:
                raise CheckpointError(f"{file.path}: its {key} is no JSON: {error}.") from error
    return said


def _tensors_at(root: Mapping[str, Any], container: tuple[str, ...]) -> Mapping[str, Any]:
    """The mapping under ``container`` if any of its values is a tensor, else an empty one."""
    found = said_at(root, container)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        return {}
    return found if any(isinstance(value, Tensor) for value in found.values()) else {}


def _bears(names: Iterable[str], row: Format, *, prefix: str = "") -> bool:
    stripped = [strip_wrappers(name) for name in names]
    inner = [name.removeprefix(prefix) for name in stripped if name.startswith(prefix)]
    return all(fnmatch.filter(inner, mark) for mark in row.marks)


def _unknown_layout(file: CheckpointFile) -> CheckpointError:
    """Show what the file holds, and which format it would be but for a prefix."""
    held = [_summary(key, value) for key, value in file.root.items() if key != RECORD]
    containers = [(), *((key,) for key in file.root)]
    tensors = next(filter(None, (_tensors_at(file.root, path) for path in containers)), None)
    text = f"{file.path} is of no known layout. It holds {shortened(held) or 'nothing'}."
    if tensors is None:
        return CheckpointError(
            f"{text} No tensors lie there under their names: is it a checkpoint of a network?"
        )
    shown = [f"{n} {list(t.shape)}" for n, t in tensors.items() if isinstance(t, Tensor)]
    text += f"\n  its first tensors: {shortened(shown)}"
    for row in FORMATS:
        for prefix in _prefixes(tensors):
            if row.marks and _bears(tensors, row, prefix=prefix):
                text += f"\n  the nearest format: '{row.name}', if '{prefix}' led no name"
                return CheckpointError(f"{text}\n{ADVICE}")
    return CheckpointError(f"{text}\n{ADVICE}")


def _prefixes(names: Iterable[str]) -> list[str]:
    """What leads the names, shortest first: ``a.`` and ``a.b.`` of ``a.b.c``."""
    parts = [strip_wrappers(name).split(".") for name in names]
    return sorted(
        {".".join(part[:depth]) + "." for part in parts for depth in (1, 2) if len(part) > depth},
        key=lambda prefix: (prefix.count("."), prefix),
    )


def _summary(key: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return str(key)
    return f"{key} ({len(value)} entries)" if isinstance(value, Mapping) else str(key)


ADVICE = (
    "Known formats: moco-eval formats. For another author's layout add a row to "
    "moco_eval/encoders/formats.py."
)
