"""Where this program measures what a paper published: protocol, recipe, data set and metric.

The keys of ``published.csv`` are the papers' procedures; an ``Address`` says which of ours has the
same numbers. What has none is listed with the reason, so that nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

OTHER_ENGINE = (
    "published with Detectron2; a protocol that ends in -tv is the same procedure on torchvision's "
    "parts, another engine"
)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Published rows, and where ours of the same kind are.

    Attributes:
        key: Of the file's column ``protocol``.
        datasets: The file's name of each data set, and ours.
        metrics: The file's name of each metric, and ours.
        protocols: Our ids; one in ``-tv`` is the same procedure on another engine.
        recipes: Ours with these numbers.
        where: By a column of the file: patterns of which the row's text matches one.
        note: In what the published number is another one; empty for nothing known.
    """

    key: str
    datasets: Mapping[str, str]
    metrics: Mapping[str, str]
    protocols: tuple[str, ...]
    recipes: tuple[str, ...]
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""

    def holds(self, row: Mapping[str, str]) -> bool:
        """Whether a row of the file, or the part of one that is given, is addressed by this."""
        return (
            row["protocol"] == self.key
            and row["dataset"] in self.datasets
            and row["metric"] in self.metrics
            and all(
                any(fnmatchcase(row[column], pattern) for pattern in patterns)
                for column, patterns in self.where.items()
                if column in row
            )
        )


TOP1 = {"top1": "top1"}
TOP5 = {"top1": "top1", "top5": "top5"}
BOXES = {"AP": "AP", "AP50": "AP50", "AP75": "AP75"}
MASKS = {"APmk": "AP_mask", "APmk50": "AP50_mask", "APmk75": "AP75_mask"}
BOXES_AND_MASKS = {"APbb": "AP", "APbb50": "AP50", "APbb75": "AP75", **MASKS}

IMAGENET = {"ImageNet": "imagenet"}
TRANSFER_SETS = {
    "Food-101": "food101",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Birdsnap": "birdsnap",
    "SUN397": "sun397",
    "Stanford Cars": "cars",
    "FGVC Aircraft": "aircraft",
    "VOC07 cls": "voc07",
    "DTD": "dtd",
    "Oxford Pets": "pets",
    "Caltech-101": "caltech101",
    "Flowers-102": "flowers102",
}
TRANSFER_METRICS = {
    "top1": "top1",
    "mean per class": "mean_per_class",
    "mAP (11-point)": "mAP_11point",
}

DETECT = ("detect", "detect-tv")
SEGMENT = ("segment", "segment-tv")

V1, V2, V3 = "arXiv 1911.05722 *", "arXiv 2003.04297 *", "arXiv 2104.02057 *"
MOCO_REPO = "github facebookresearch/moco *"
V3_REPO = "github facebookresearch/moco-v3 *"
SIMSIAM, VICREG, BARLOW = "arXiv 2011.10566 *", "arXiv 2105.04906 *", "arXiv 2103.03230 *"
# Who fine-tuned detectors with MoCo's learning rate, and who with one for each method.
AS_MOCO = (
    *(V1, V2, MOCO_REPO, "github open-mmlab/OpenSelfSup *", "github WXinlong/DenseCL *"),
    *("github limbo0000/InstanceLoc *", "github HobbitLong/PyContrast *"),
)
TUNED = (SIMSIAM, VICREG, BARLOW)
LR_TUNED = "its authors chose the learning rate for each method, this recipe has MoCo's"


def _linear(*recipes: str, note: str = "", **where: tuple[str, ...]) -> Address:
    return Address(
        key="linear",
        datasets=IMAGENET,
        metrics=TOP5,
        protocols=("linear-sgd",),
        recipes=recipes,
        where=where,
        note=note,
    )


_LINEAR = (
    # Both recipes have the same numbers.
    _linear(
        *("mocov1", "mocov2"),
        method=("MoCo v1*", "MoCo v2", "MoCo v2 (*", "end-to-end*", "memory bank*"),
        source=(V1, V2, MOCO_REPO, "arXiv 2011.10566 Table C.1", "arXiv 2104.02057 Sec.3"),
    ),
    _linear(
        "mocov3-resnet50",
        architecture=("R50",),
        method=("MoCo v3*",),
        source=(V3, V3_REPO),
        note="the paper's batch is 4096 and its learning rate chosen; the recipe is the "
        "repository's",
    ),
    _linear(
        "mocov3-vit",
        architecture=("ViT*",),
        method=("MoCo v3*",),
        source=(V3, V3_REPO, "EsViT table *"),
        note="the paper's batch is 4096 and its learning rate chosen; the recipe is the "
        "repository's",
    ),
    _linear(
        "simsiam",
        method=("SimSiam*",),
        source=(SIMSIAM, "github facebookresearch/simsiam *", "arXiv 2105.04906 Table 1"),
    ),
    _linear("swav", source=("github facebookresearch/swav *",)),
    _linear("swav", method=("SwAV *",), source=("arXiv 2105.04906 Table 1",)),
    _linear("vicreg", method=("VICReg*",), source=(VICREG,)),
    _linear(
        "vissl",
        source=("github facebookresearch/vissl *",),
        note="VISSL's feature is larger than the pooled one of this recipe",
    ),
    Address(
        key="linear",
        datasets={"Places205": "places205"},
        metrics=TOP1,
        protocols=("linear-sgd",),
        recipes=("vissl",),
        where={"source": ("arXiv 2105.04906 Table 2",)},
        note="the schedule is VISSL's, the size of the feature may be another",
    ),
    Address(
        key="linear_lbfgs",
        datasets=TRANSFER_SETS,
        metrics=TRANSFER_METRICS,
        protocols=("linear-lbfgs",),
        recipes=("lbfgs-45",),
    ),
)


def _svm(recipe: str, *sources: str) -> Address:
    return Address(
        key="svm",
        datasets={"VOC07 cls": "voc07"},
        metrics={"mAP": "mAP"},
        protocols=("svm",),
        recipes=(recipe,),
        where={"source": sources},
    )


_SVM = (
    _svm("voc07", VICREG, "arXiv 1912.01991 *"),
    _svm("voc07-openselfsup", "github open-mmlab/OpenSelfSup *"),
    *(
        Address(
            key=f"svm_lowshot_k{k}",
            datasets={"VOC07 cls": "voc07"},
            metrics={"mAP": f"mAP_k{k}_best_on_test"},
            protocols=("svm-lowshot",),
            recipes=("voc07-lowshot",),
            note="C is the best on the test set",
        )
        for k in (1, 2, 4, 8, 16, 32, 64, 96)
    ),
)


def _knn(recipe: str, key: str, data: Mapping[str, str], **where: tuple[str, ...]) -> Address:
    return Address(
        key=key,
        datasets=data,
        metrics=TOP1,
        protocols=("knn",),
        recipes=(recipe,),
        where=where,
    )


_KNN = (
    _knn("knn-20", "knn_k20", IMAGENET, source=("arXiv 2104.14294 *", VICREG)),
    _knn(
        "knn-200",
        "knn_k200",
        IMAGENET,
        source=(VICREG,),
        method=("BYOL", "SwAV", "Barlow Twins", "VICReg"),
    ),
    _knn(
        "instdisc-200",
        "knn_k200",
        IMAGENET,
        source=(VICREG, "github zhirongw/lemniscate.pytorch *"),
        method=("NPID", "LocalAgg", "InstDisc*"),
    ),
    _knn(
        "moco-cifar",
        "knn",
        {"CIFAR-10": "cifar10"},
        source=("github facebookresearch/moco branch colab-notebook *",),
    ),
)


def _few_labels(name: str, **where: tuple[str, ...]) -> tuple[Address, ...]:
    return tuple(
        Address(
            key=f"semi_{share}pct",
            datasets=IMAGENET,
            metrics=TOP5,
            protocols=("lowshot-finetune",),
            recipes=(f"{name}-{share}percent",),
            where=where,
        )
        for share in (1, 10)
    )


_FEW_LABELS = (
    *_few_labels("swav", source=(VICREG,), method=("SwAV *",)),
    *_few_labels("vicreg", source=(VICREG,), method=("VICReg",)),
    *_few_labels("openselfsup", source=("*OpenSelfSup* semi r50_lr0_01_head100.py",)),
)


def _finetune(
    recipe: str, data: Mapping[str, str], *sources: str, **where: tuple[str, ...]
) -> Address:
    return Address(
        key="finetune",
        datasets=data,
        metrics=TRANSFER_METRICS,
        protocols=("finetune",),
        recipes=(recipe,),
        where={"source": sources, **where},
    )


_V3_TRANSFER = ("arXiv 2104.02057 Table 6", "github facebookresearch/moco-v3 transfer/*")
_FINETUNE = (
    _finetune("mocov1-imagenet", IMAGENET, "arXiv 1911.05722 App. A.7"),
    _finetune("mocov1-inat18", {"iNaturalist18": "inat2018"}, "arXiv 1911.05722 App. A.6"),
    _finetune("kornblith", TRANSFER_SETS, "arXiv 2006.07733 Table 3", "arXiv 2002.05709 Table 8"),
    _finetune(
        *("deit-vit", IMAGENET, "arXiv 2104.02057 Table 1", V3_REPO),
        architecture=("ViT-S*", "ViT-B*"),
        method=("MoCo v3*", "DeiT*"),
    ),
    _finetune("mocov3-transfer", {"CIFAR-10": "cifar10"}, *_V3_TRANSFER),
    _finetune("mocov3-cifar100", {"CIFAR-100": "cifar100"}, *_V3_TRANSFER),
    _finetune("mocov3-flowers", {"Flowers-102": "flowers102"}, *_V3_TRANSFER),
    _finetune("mocov3-pets", {"Oxford Pets": "pets"}, *_V3_TRANSFER),
)


def _dense(
    recipe: str,
    key: str,
    data: tuple[str, str],
    *,
    metrics: Mapping[str, str],
    protocols: tuple[str, ...],
    note: str = OTHER_ENGINE,
    **where: tuple[str, ...],
) -> Address:
    return Address(
        key=key,
        datasets=dict([data]),
        metrics=metrics,
        protocols=protocols,
        recipes=(recipe,),
        where=where,
        note=note,
    )


def _voc(recipe: str, key: str, data: tuple[str, str], *sources: str) -> Address:
    return _dense(recipe, key, data, metrics=BOXES, protocols=DETECT, source=sources)


def _coco(recipe: str, key: str) -> Address:
    data = ("COCO val2017", "coco2017")
    protocols = (*DETECT, *SEGMENT)
    return _dense(
        *(recipe, key, data), metrics=BOXES_AND_MASKS, protocols=protocols, source=AS_MOCO
    )


def _tuned(address: Address) -> Address:
    """The same detector, fine-tuned with a learning rate that was chosen for each method."""
    return replace(address, where={"source": TUNED}, note=f"{LR_TUNED}; {address.note}")


def _lvis(recipe: str, key: str, *methods: str) -> Address:
    return _dense(
        *(recipe, key, ("LVIS v0.5 val", "lvis-v0.5")),
        metrics=MASKS,
        protocols=(*DETECT, *SEGMENT),
        method=methods,
    )


def _semantic(recipe: str, key: str, data: tuple[str, str]) -> Address:
    return _dense(
        *(recipe, key, data), metrics={"mIoU": "mIoU"}, protocols=("segment-semantic",), note=""
    )


_VOC_24K = _voc("voc-c4-24k", "voc_det_c4_24k", ("VOC07+12 test2007", "voc07+12"), *AS_MOCO)
_VOC_9K = _voc("voc07-c4-9k", "voc_det_c4_9k", ("VOC07 test2007", "voc07"))
_COCO_C4_1X = _coco("coco-c4-1x", "coco_maskrcnn_c4_1x")
_TUNED_NORMS = ("MoCo v1*", "random", "supervised (tuned BN)")
_DENSE = (
    _VOC_24K,
    _tuned(_VOC_24K),
    _voc("voc-dc5-24k", "voc_det_dc5_24k", ("VOC07+12 test2007", "voc07+12"), V1),
    # The detectors of other papers that MoCo's Table 4 quotes are not of this recipe.
    replace(_VOC_9K, where={"source": (V1,), "method": ("MoCo v1", "supervised")}),
    _tuned(_VOC_9K),
    _COCO_C4_1X,
    _tuned(_COCO_C4_1X),
    _coco("coco-c4-2x", "coco_maskrcnn_c4_2x"),
    _coco("coco-fpn-1x", "coco_maskrcnn_fpn_1x"),
    _coco("coco-fpn-2x", "coco_maskrcnn_fpn_2x"),
    _coco("coco-fpn-6x", "coco_maskrcnn_fpn_6x"),
    _dense(
        *("coco-keypoint-fpn-2x", "coco_keypoint_fpn_2x", ("COCO val2017", "coco2017-keypoints")),
        metrics={"APkp": "AP_kp", "APkp50": "AP50_kp", "APkp75": "AP75_kp"},
        protocols=DETECT,
    ),
    _lvis("lvis-fpn-1x", "lvis_v0.5_fpn_1x", *_TUNED_NORMS),
    _lvis("lvis-fpn-2x", "lvis_v0.5_fpn_2x", *_TUNED_NORMS),
    _lvis("lvis-fpn-1x-frozen-norms", "lvis_v0.5_fpn_1x", "supervised (frozen BN)"),
    _lvis("lvis-fpn-2x-frozen-norms", "lvis_v0.5_fpn_2x", "supervised (frozen BN)"),
    _dense(
        *("cityscapes-fpn", "cityscapes_instseg_fpn", ("Cityscapes val", "cityscapes")),
        metrics={"APmk": "AP_mask", "APmk50": "AP50_mask"},
        protocols=(*DETECT, *SEGMENT),
    ),
    _semantic("voc-aug-fcn", "voc_semseg_fcn16s", ("VOC12 val", "voc-aug")),
    _semantic("cityscapes-fcn", "cityscapes_semseg_fcn16s", ("Cityscapes val", "cityscapes")),
)

ADDRESSES = (*_LINEAR, *_SVM, *_KNN, *_FEW_LABELS, *_FINETUNE, *_DENSE)

# Procedures of which this program has none, on no data set.
NOT_MEASURED = {
    "coco_densepose_fpn_1x": "no DensePose head",
    "coco_fcos": "no FCOS detector",
    "coco_maskrcnn_fpn_1x_vicreg": "VICReg's own settings of Mask R-CNN",
    "coco_maskrcnn_fpnbnhead_1x": "a box head of four normalised convolutions",
    "coco_maskrcnn_fpnbnhead_2x": "a box head of four normalised convolutions",
    "coco_maskrcnn_fpnbnhead_6x": "a box head of four normalised convolutions",
    "coco_solov2": "no SOLOv2",
    "cost": "time and memory of pretraining",
    "depth": "no depth estimation",
    "linear_multi_feat1": "a probe on each stage, pooled to some 9,000 numbers",
    "linear_multi_feat2": "a probe on each stage, pooled to some 9,000 numbers",
    "linear_multi_feat3": "a probe on each stage, pooled to some 9,000 numbers",
    "linear_multi_feat4": "a probe on each stage, pooled to some 9,000 numbers",
    "linear_multi_feat5": "a probe on each stage, pooled to some 9,000 numbers",
    "linear_online": "a probe trained along with the encoder",
    "supervised": "training with all labels from the start, which evaluates no encoder",
    "voc_det": "detectors of other settings: CPC's and InstDisc's",
    "voc_det_byol": "BYOL's own detector, trained asynchronously",
    "voc_det_c4_pirl": "PIRL's detector with frozen norms and another schedule",
    "voc_semseg_byol_fcn16s": "judged on the central 513 pixels, its learning rate searched",
    "voc_semseg_densecl_fcn": "DenseCL's FCN of other settings",
}

# Procedures that it has, on data that it has not, or with numbers that no recipe of it has.
NOT_MEASURED_ON = {
    ("finetune", "iNaturalist19"): "the data set does not open by name",
    ("knn", "ImageNet"): "lightly's own settings",
    ("knn_k20", "ImageNet-100"): "lightly's own settings",
    ("knn_k20", "Imagenette"): "the data set does not open by name",
    ("knn_k200", "CIFAR-10"): "lightly's settings: MoCo's vote on the pooled feature",
    ("linear", "CIFAR-10"): "each paper's own settings",
    ("linear", "ImageNet-100"): "each source's own settings",
    ("linear", "Places365"): "the data set does not open by name",
    ("linear", "iNaturalist18"): "the papers train for 84 epochs",
}


def addresses_of(row: Mapping[str, str]) -> list[Address]:
    """The addresses of a row of the file, by its columns; none where we cannot measure the same."""
    return [address for address in ADDRESSES if address.holds(row)]
