"""SwAV, SeLa-v2 and the two DeepClusters."""

from __future__ import annotations

from moco_eval.encoders.formats.inputs import SWAV
from moco_eval.encoders.formats.layout import Format, Tower

_TOWERS = (Tower(containers=(("state_dict",), ())),)
_DROP = ("projection_head.*", "prototypes.*", "fc.*")

CLUSTERING = (
    Format(
        name="deepcluster-v2",
        title="DeepCluster-v2, and SwAV with several heads of prototypes",
        towers=_TOWERS,
        marks=("conv1.weight", "projection_head.*", "prototypes.prototypes*.weight"),
        drop=_DROP,
        arch=("arch",),
        input=SWAV,
        source="facebookresearch/swav@06b1b7c: main_deepclusterv2.py, src/resnet50.py",
    ),
    Format(
        name="swav",
        title="SwAV and SeLa-v2",
        towers=_TOWERS,
        marks=("conv1.weight", "projection_head.*", "prototypes.weight"),
        drop=_DROP,
        arch=("arch",),
        # Twice as wide is theirs resnet50w2.
        arch_names=((r"(resnet\d+)w(\d)", r"\1_w\2x"),),
        input=SWAV,
        source="facebookresearch/swav@06b1b7c: main_swav.py, src/resnet50.py, hubconf.py",
    ),
    Format(
        name="deepcluster-v1",
        title="DeepCluster's AlexNet or VGG-16",
        towers=(Tower(containers=(("state_dict",),), prefixes=("features.",)),),
        says=(("arch",),),
        marks=("features.*", "top_layer.*"),
        refused=(
            "AlexNet and VGG-16 after Sobel filters are not built here. DeepCluster-v2 has a "
            "ResNet-50: format 'deepcluster-v2'."
        ),
        source="facebookresearch/deepcluster@2d1927e: main.py, util.py",
    ),
)
