"""BYOL, SimSiam, Barlow Twins and VICReg: two branches and no negatives."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Tower
from moco_eval.encoders.formats.transforms_resnet import from_haiku

_BARE_OR_LIGHTNING = ((), ("state_dict",))
_MODEL = (("model",),)
_HAIKU = r"^(?:params|state)/(?:.*/)?"
_HAIKU_NAMES = (
    (rf"{_HAIKU}initial_conv/", "conv1/"),
    (rf"{_HAIKU}initial_batchnorm(?:_1)?/", "bn1/"),
    *(
        (rf"{_HAIKU}block_group_{group}/~/block_(\d+)/~/", rf"layer{group + 1}.\1.")
        for group in range(4)
    ),
    *((rf"\.conv_{number}/", f".conv{number + 1}/") for number in range(3)),
    *((rf"\.batchnorm_{number}/", f".bn{number + 1}/") for number in range(3)),
    (r"\.shortcut_conv/", ".downsample.0/"),
    (r"\.shortcut_batchnorm/", ".downsample.1/"),
    (r"/~/(mean|var)_ema/average$", r".running_\1"),
    (r"/(w|scale)$", ".weight"),
    (r"/offset$", ".bias"),
)

SIAMESE = (
    Format(
        name="byol-lucidrains",
        title="BYOL in PyTorch by lucidrains, alone or as Lightning's 'learner'",
        towers=tuple(
            Tower(
                name=name,
                containers=_BARE_OR_LIGHTNING,
                prefixes=(f"{name}.net.", f"learner.{name}.net."),
            )
            for name in ("online_encoder", "target_encoder")
        ),
        marks=("*online_encoder.net.*", "*online_predictor.*"),
        # The network itself is in the file once more, beside the online encoder around it.
        drop=(
            *("net.*", "learner.net.*", "*.projector.*", "*online_predictor.*"),
            *("fc.*", f"{CLASSIFIER}.*"),
        ),
        input=IMAGENET,
        source="lucidrains/byol-pytorch@2993126: byol_pytorch/byol_pytorch.py, trainer.py",
    ),
    Format(
        name="byol-deepmind",
        title="BYOL's own checkpoints, of JAX and haiku",
        towers=tuple(
            Tower(
                name=name, containers=(("experiment_state",),), prefixes=(f"{name}_",), nested=True
            )
            for name in ("online", "target")
        ),
        marks=("online_params/*initial_conv/w", "online_state/*mean_ema/average"),
        drop=(
            *("opt_state*", "*projector*", "*predictor*", "*classifier*"),
            *("*_ema/hidden", "*_ema/counter"),
        ),
        rename=_HAIKU_NAMES,
        transform=from_haiku,
        input=IMAGENET,
        caveat=(
            "haiku pads strided convolutions and pooling on the right and below only; here they "
            "are padded on all sides, so that features are close to the author's and not equal"
        ),
        source=(
            "google-deepmind/deepmind-research@f5de0ed: byol/byol_experiment.py; "
            "ajtejankar/byol-convert: convert.py"
        ),
    ),
    Format(
        name="simsiam",
        title="SimSiam",
        towers=(Tower(containers=(("state_dict",),), prefixes=("encoder.",)),),
        says=(("arch",),),
        marks=("encoder.fc.6.weight", "predictor.0.weight", "predictor.3.weight"),
        drop=("fc.*", "predictor.*"),
        arch=("arch",),
        input=IMAGENET,
        source="facebookresearch/simsiam@a7bc177: simsiam/builder.py, main_lincls.py",
    ),
    Format(
        name="barlow-twins",
        title="Barlow Twins with its projector",
        towers=(Tower(containers=_MODEL, prefixes=("backbone.",)),),
        # The norm is the loss's.
        marks=("backbone.conv1.weight", "projector.*", "bn.running_mean"),
        drop=("projector.*", "bn.*"),
        input=IMAGENET,
        source="facebookresearch/barlowtwins@8e8d284: main.py",
    ),
    Format(
        name="vicreg",
        title="VICReg with its projector",
        towers=(Tower(containers=_MODEL, prefixes=("backbone.",)),),
        marks=("backbone.conv1.weight", "projector.*"),
        unmarked=("[!bp]*", "bn.*"),
        drop=("projector.*",),
        input=IMAGENET,
        source="facebookresearch/vicreg@4e12602: main_vicreg.py, resnet.py",
    ),
    Format(
        name="vicreg-linear",
        title="VICReg's linear evaluation: backbone and classifier in a row",
        towers=(Tower(containers=_MODEL, prefixes=("0.",)),),
        says=(("best_acc",),),
        marks=("0.conv1.weight", "1.weight"),
        drop=("1.*",),
        input=IMAGENET,
        source="facebookresearch/vicreg@4e12602: evaluate.py",
    ),
)
