"""Every author's naming, as data: a row of ``FORMATS`` says how one layout is read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from moco_eval.data.images import InputSpec
from moco_eval.encoders.reader import CONFIG, RECORD

# Stands in a drop rule for what the network calls its classifier.
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
        arch_names: Pairs of their name of an architecture and ours, where they differ.
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
    arch_names: tuple[tuple[str, str], ...] = ()
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
        # A memory bank of all images' keys stands in the place of key encoder and queue.
        drop=(
            *("encoder_q.fc.*", f"encoder_q.{CLASSIFIER}.*"),
            *("encoder_k.*", "queue", "queue_ptr", "bank"),
        ),
        arch=("arch",),
        tower="encoder_q",
        other_tower="encoder_k",
        input=InputSpec(),
        source="facebookresearch/moco@7397dfe: moco/builder.py, main_lincls.py",
    ),
    Format(
        name="mocov3",
        title="MoCo v3, ResNets and ViTs, and what moco-pretrain writes of it",
        containers=(("state_dict",),),
        marks=("base_encoder.*", "momentum_encoder.*"),
        prefix="base_encoder.",
        drop=(
            *("base_encoder.fc.*", f"base_encoder.{CLASSIFIER}.*"),
            *("momentum_encoder.*", "predictor.*"),
        ),
        arch=("arch",),
        arch_names=(
            ("vit_small", "vit_small_mocov3"),
            ("vit_base", "vit_base_mocov3"),
            ("vit_conv_small", "vit_conv_small_mocov3"),
            ("vit_conv_base", "vit_conv_base_mocov3"),
        ),
        tower="base_encoder",
        other_tower="momentum_encoder",
        input=InputSpec(),
        source="facebookresearch/moco-v3@c349e6e: moco/builder.py, vits.py, main_lincls.py",
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
        name="torchvision",
        title="a torchvision ResNet, bare, under 'model' or under 'state_dict'",
        containers=((), ("model",), ("state_dict",)),
        marks=("conv1.weight", "layer1.0.conv1.weight"),
        drop=("fc.*",),
        arch=("arch",),
        input=InputSpec(),
        source="pytorch/vision 0.29.2: torchvision/models/resnet.py",
    ),
    Format(
        name="moco-pretrain",
        title="what moco-pretrain writes of a supervised baseline that is no ResNet",
        containers=(("state_dict",),),
        root_keys=(RECORD, "arch"),
        drop=(f"{CLASSIFIER}.*",),
        arch=("arch",),
        source="pretrain/checkpoint.py",
    ),
    Format(
        name="timm-vit",
        title="bare timm names of a ViT; needs --arch timm:NAME.TAG, which tells how it is fed",
        containers=((), ("model",), ("state_dict",)),
        marks=("patch_embed.proj.weight", "blocks.0.*"),
        drop=(f"{CLASSIFIER}.*",),
        source="huggingface/pytorch-image-models 1.0.31: timm/models/vision_transformer.py",
    ),
)


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
