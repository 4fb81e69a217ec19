"""solo-learn, PyContrast and PixPro: codebases that hold several methods, or rest on one."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Tower

_PYCONTRAST = "HobbitLong/PyContrast@84f94ea: learning/contrast_trainer.py"

CODEBASES = (
    Format(
        name="solo-learn",
        title="solo-learn's pretraining, any method",
        towers=(
            Tower(
                name="backbone",
                containers=(("state_dict",),),
                prefixes=("backbone.", "encoder."),
            ),
            Tower(
                name="momentum_backbone",
                containers=(("state_dict",),),
                prefixes=("momentum_backbone.", "momentum_encoder."),
            ),
        ),
        says=(("pytorch-lightning_version",),),
        # Beside backbone and classifier lies what the method adds: a projector, a head, a decoder.
        marks=("classifier.weight", "[!bce]*"),
        drop=(
            *("projector*", "predictor*", "prototypes*", "queue*", "head.*", "decoder.*"),
            *("momentum_projector*", "momentum_predictor*", "momentum_prototypes*"),
            *("momentum_classifier*", "momentum_head*", "classifier.*", "whitening*"),
            *("local_memory*", "fc.*"),
        ),
        # Of the same names and shapes as others', and padded by 2.
        arch_names=((r"(.+)_cifar", r"\1_cifar_pad2"),),
        input=IMAGENET,
        # Small images are normalised by their own data set's statistics.
        input_unless=r".+_cifar_pad2",
        source="vturrisi/solo-learn@9187ea3: solo/methods/base.py, data/pretrain_dataloader.py",
    ),
    Format(
        name="pycontrast",
        title="PyContrast: InfoMin, MoCo, PIRL, InsDis",
        towers=(
            Tower(name="model", containers=(("model",),), prefixes=("encoder.",)),
            Tower(name="model_ema", containers=(("model_ema",),), prefixes=("encoder.",)),
        ),
        says=(("contrast",),),
        marks=("encoder.conv1.weight", "head.*"),
        drop=("head.*", "head_jig.*", "fc.*"),
        input=IMAGENET,
        source=_PYCONTRAST,
    ),
    Format(
        name="pycontrast-cmc",
        title="PyContrast's CMC",
        towers=(Tower(containers=(("model",),), prefixes=("encoder1.",)),),
        says=(("contrast",),),
        marks=("encoder1.*", "encoder2.*"),
        refused=(
            "its two networks see an image's lightness and its colours, and neither sees RGB. Take "
            "InfoMin or MoCo of the same codebase."
        ),
        source=_PYCONTRAST,
    ),
    Format(
        name="pixpro",
        title="PixPro",
        towers=(
            Tower(name="encoder", containers=(("model",),), prefixes=("encoder.",)),
            Tower(name="encoder_k", containers=(("model",),), prefixes=("encoder_k.",)),
        ),
        says=(("opt",),),
        marks=("encoder.conv1.weight", "encoder_k.*", "projector*"),
        drop=("projector*", "value_transform.*", f"{CLASSIFIER}.*"),
        arch=("opt", "arch"),
        input=IMAGENET,
        source="zdaxie/PixPro@e390d6b: main_pretrain.py, transfer/detection",
    ),
)
