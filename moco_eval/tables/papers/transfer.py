"""Tables of transfer in other papers: the twelve data sets, and what MoCo is compared on there."""

from __future__ import annotations

from moco_eval.tables.papers.paper import PaperColumn, PaperRow, PaperTable, Where, nothing

SIMCLR = "Chen et al., A Simple Framework for Contrastive Learning, arXiv:2002.05709"
BYOL = "Grill et al., Bootstrap Your Own Latent, arXiv:2006.07733"
VICREG = "Bardes, Ponce and LeCun, VICReg, arXiv:2105.04906"
DINO = "Caron et al., Emerging Properties in Self-Supervised Vision Transformers, arXiv:2104.14294"

# In the order and with the short names of the papers.
TWELVE = {
    "Food101": ("Food-101", "top1"),
    "CIFAR10": ("CIFAR-10", "top1"),
    "CIFAR100": ("CIFAR-100", "top1"),
    "Birdsnap": ("Birdsnap", "top1"),
    "SUN397": ("SUN397", "top1"),
    "Cars": ("Stanford Cars", "top1"),
    "Aircraft": ("FGVC Aircraft", "mean per class"),
    "VOC2007": ("VOC07 cls", "mAP (11-point)"),
    "DTD": ("DTD", "top1"),
    "Pets": ("Oxford Pets", "mean per class"),
    "Caltech-101": ("Caltech-101", "mean per class"),
    "Flowers": ("Flowers-102", "mean per class"),
}
METRICS = (
    "Top-1; of Aircraft, Pets, Caltech-101 and Flowers the mean over classes; of VOC2007 the mean "
    "of 11-point average precisions.",
)


def _of_twelve(protocol: str) -> tuple[PaperColumn, ...]:
    return tuple(
        PaperColumn(
            heading=name, where={"protocol": protocol, "dataset": dataset, "metric": metric}
        )
        for name, (dataset, metric) in TWELVE.items()
    )


def _twelve(paper: str, protocol: str) -> PaperTable:
    """Linear or fine-tuned, in SimCLR's Table 8 or BYOL's Table 3."""
    is_linear = protocol == "linear_lbfgs"
    kind = "linear evaluation" if is_linear else "fine-tuned"
    rows = [] if is_linear else [PaperRow(label="random init.", where={"method": "random"})]
    supervised = PaperRow(label="supervised", where={"method": "supervised"})
    methods = ["SimCLR"] if paper == "simclr" else ["BYOL", "SimCLR (repro)", "SimCLR"]
    names = {"SimCLR (repro)": "SimCLR (BYOL repro)"}
    own = [PaperRow(label=m, where={"method": names.get(m, m)}) for m in methods]
    place = f"{SIMCLR}, Table 8" if paper == "simclr" else f"{BYOL}, Table 3"
    source = "arXiv 2002.05709 Table 8" if paper == "simclr" else "arXiv 2006.07733 Table 3"
    arch = "ResNet-50 (4x)" if paper == "simclr" else "ResNet-50"
    return PaperTable(
        id=f"{paper}/{'table8' if paper == 'simclr' else 'table3'}-"
        f"{'linear' if is_linear else 'finetune'}",
        title=f"Transfer from ImageNet to twelve data sets, {arch}: {kind}",
        source=place,
        where={"source": source},
        corner="method",
        columns=_of_twelve(protocol),
        rows=(*own, supervised, *rows),
        notes=METRICS,
    )


LINEAR = {"protocol": "linear", "dataset": "ImageNet"}


def _linear(
    label: str, method: str, arch: str, params: str, *, without: tuple[str, ...] = ()
) -> PaperRow:
    return PaperRow(
        label=label,
        where={"method": method, "architecture": arch},
        facts=(arch, params),
        cells=nothing(*without),
    )


_TOP5 = ("top-5",)
BYOL_1 = PaperTable(
    id="byol/table1",
    title="Linear evaluation on ImageNet",
    source=f"{BYOL}, Table 1",
    where={"source": "arXiv 2006.07733 Table 1"},
    corner="method",
    facts=("architecture", "params (M)"),
    columns=(
        PaperColumn(heading="top-1", where={**LINEAR, "metric": "top1"}, is_measured=False),
        PaperColumn(heading="top-5", where={**LINEAR, "metric": "top5"}, is_measured=False),
    ),
    rows=(
        _linear("Local Agg.", "LocalAgg", "R50", "24", without=_TOP5),
        _linear("PIRL", "PIRL", "R50", "24", without=_TOP5),
        _linear("CPC v2", "CPC v2", "R50", "24"),
        _linear("CMC", "CMC", "R50", "24"),
        _linear("SimCLR", "SimCLR", "R50", "24"),
        _linear("MoCo v2", "MoCo v2", "R50", "24", without=_TOP5),
        _linear("InfoMin Aug.", "InfoMin", "R50", "24"),
        _linear("BYOL", "BYOL", "R50", "24"),
        _linear("SimCLR, 2x", "SimCLR", "R50w2x", "94"),
        _linear("CMC, 2x", "CMC", "R50w2x", "94"),
        _linear("BYOL, 2x", "BYOL", "R50w2x", "94"),
        _linear("CPC v2, ResNet-161", "CPC v2", "R161", "305"),
        _linear("MoCo, 4x", "MoCo v1", "R50w4x", "375", without=_TOP5),
        _linear("SimCLR, 4x", "SimCLR", "R50w4x", "375"),
        _linear("BYOL, 4x", "BYOL", "R50w4x", "375"),
        _linear("BYOL, ResNet-200 2x", "BYOL", "R200w2x", "250"),
    ),
    notes=("BYOL's own probe chooses its learning rate: no recipe here has its numbers.",),
)

_FEW = {
    f"{share}% {name}": {
        "protocol": f"semi_{share}pct",
        "dataset": "ImageNet",
        "metric": metric,
    }
    for name, metric in (("top-1", "top1"), ("top-5", "top5"))
    for share in ("1", "10")
}


def _few(label: str, method: str, arch: str, params: str, *, has_top1: bool = True) -> PaperRow:
    without = () if has_top1 else ("1% top-1", "10% top-1")
    return _linear(label, method, arch, params, without=without)


BYOL_2 = PaperTable(
    id="byol/table2",
    title="Semi-supervised training on a fraction of ImageNet's labels",
    source=f"{BYOL}, Table 2",
    where={"source": "arXiv 2006.07733 Table 2"},
    corner="method",
    facts=("architecture", "params (M)"),
    columns=tuple(
        PaperColumn(heading=name, where=where, is_measured=False) for name, where in _FEW.items()
    ),
    rows=(
        _few("Supervised", "supervised", "R50", "24"),
        _few("InstDisc", "InstDisc", "R50", "24", has_top1=False),
        _few("PIRL", "PIRL", "R50", "24", has_top1=False),
        _few("SimCLR", "SimCLR", "R50", "24"),
        _few("BYOL", "BYOL", "R50", "24"),
        _few("CPC v2, ResNet-161", "CPC v2", "R161", "305", has_top1=False),
        _few("SimCLR, 2x", "SimCLR", "R50w2x", "94"),
        _few("BYOL, 2x", "BYOL", "R50w2x", "94"),
        _few("SimCLR, 4x", "SimCLR", "R50w4x", "375"),
        _few("BYOL, 4x", "BYOL", "R50w4x", "375"),
        _few("BYOL, ResNet-200 2x", "BYOL", "R200w2x", "250"),
    ),
    notes=("BYOL's own fine-tuning chooses its settings: no recipe here has its numbers.",),
)

_TASKS: dict[str, Where] = {
    "Places205": {"protocol": "linear", "dataset": "Places205", "metric": "top1"},
    "VOC07": {"protocol": "svm", "dataset": "VOC07 cls", "metric": "mAP"},
    "iNat18": {"protocol": "linear", "dataset": "iNaturalist18", "metric": "top1"},
    "VOC07+12": {
        "protocol": "voc_det_c4_24k",
        "dataset": "VOC07+12 test2007",
        "metric": "AP50",
    },
    "COCO det": {
        "protocol": "coco_maskrcnn_fpn_1x_vicreg",
        "dataset": "COCO val2017",
        "metric": "APbb",
    },
    "COCO seg": {
        "protocol": "coco_maskrcnn_fpn_1x_vicreg",
        "dataset": "COCO val2017",
        "metric": "APmk",
    },
}
_LINEAR_TASKS, _OBJECTS = ("Places205", "VOC07", "iNat18"), ("VOC07+12", "COCO det", "COCO seg")


def _transferred(label: str, method: str = "", *, without: tuple[str, ...] = ()) -> PaperRow:
    cells: dict[str, None] = {
        key: None
        for column in without
        for key in (
            f"linear classification {column}" if column in _LINEAR_TASKS else f"objects {column}",
        )
    }
    return PaperRow(label=label, where={"method": f"{method or label} (VICReg T2)"}, cells=cells)


VICREG_2 = PaperTable(
    id="vicreg/table2",
    title="Transfer learning on downstream tasks",
    source=f"{VICREG}, Table 2",
    where={"source": "arXiv 2105.04906 Table 2"},
    corner="method",
    columns=tuple(
        PaperColumn(
            heading=name,
            group="linear classification" if name in _LINEAR_TASKS else "objects",
            where=where,
            # Trained for longer, or with a detector of its own: no recipe here has the numbers.
            is_measured=name in ("Places205", "VOC07", "VOC07+12"),
        )
        for name, where in _TASKS.items()
    ),
    rows=(
        _transferred("supervised"),
        _transferred("MoCo", "MoCo v1", without=_OBJECTS),
        _transferred("SimCLR", without=_OBJECTS),
        _transferred("MoCo v2"),
        _transferred("SimSiam", without=(*_LINEAR_TASKS, "COCO det", "COCO seg")),
        _transferred("BYOL", without=("VOC07+12",)),
        _transferred("SwAV (multi-crop)"),
        _transferred("OBoW", without=("iNat18", "COCO det", "COCO seg")),
        _transferred("Barlow Twins"),
        _transferred("VICReg"),
    ),
)

_ONLY_TOP1 = nothing("linear top-5", *(f"semi-supervised {name}" for name in _FEW))
VICREG_1 = PaperTable(
    id="vicreg/table1",
    title="Linear and semi-supervised classification on ImageNet, ResNet-50",
    source=f"{VICREG}, Table 1",
    where={"source": "arXiv 2105.04906 Table 1"},
    corner="method",
    columns=(
        PaperColumn(heading="top-1", group="linear", where={**LINEAR, "metric": "top1"}),
        PaperColumn(heading="top-5", group="linear", where={**LINEAR, "metric": "top5"}),
        *(
            PaperColumn(heading=name, group="semi-supervised", where=where)
            for name, where in _FEW.items()
        ),
    ),
    rows=(
        PaperRow(label="SimSiam", where={"method": "SimSiam"}, cells=_ONLY_TOP1),
        PaperRow(
            label="SwAV (no multi-crop)",
            where={"method": "SwAV (no multi-crop)"},
            cells=_ONLY_TOP1,
        ),
        PaperRow(
            label="OBoW",
            where={"method": "OBoW"},
            cells=nothing(
                *("linear top-5", "semi-supervised 1% top-1", "semi-supervised 10% top-1")
            ),
        ),
        PaperRow(
            label="SwAV (multi-crop)",
            where={"method": "SwAV (multi-crop)"},
            cells=nothing("linear top-5"),
        ),
        PaperRow(label="Barlow Twins", where={"method": "Barlow Twins"}),
        PaperRow(label="VICReg", where={"method": "VICReg"}),
    ),
    notes=("Rows that the paper repeats from others are with those others.",),
)

_VOTES = {"20-NN": "knn_k20", "200-NN": "knn_k200"}


def _neighbours(label: str, *, without: tuple[str, ...] = ()) -> PaperRow:
    return PaperRow(label=label, where={"method": label}, cells=nothing(*without))


VICREG_11 = PaperTable(
    id="vicreg/table11",
    title="Nearest neighbours on ImageNet, ResNet-50",
    source=f"{VICREG}, Table 11",
    where={"source": "arXiv 2105.04906 Table 11"},
    corner="method",
    columns=tuple(
        PaperColumn(heading=name, where={"protocol": key, "dataset": "ImageNet", "metric": "top1"})
        for name, key in _VOTES.items()
    ),
    rows=(
        _neighbours("NPID", without=("20-NN",)),
        _neighbours("LocalAgg", without=("20-NN",)),
        _neighbours("PCL", without=("200-NN",)),
        _neighbours("BYOL"),
        _neighbours("SwAV"),
        _neighbours("Barlow Twins"),
        _neighbours("VICReg"),
    ),
)


def _dino(label: str, arch: str, params: str) -> PaperRow:
    method = label.partition(",")[0]
    where = {"method": f"{method} (DINO T2)", "architecture": arch, "params_m": params}
    return PaperRow(label=label, where=where, facts=(arch, params))


DINO_2 = PaperTable(
    id="dino/table2",
    title="Linear and k-NN classification on ImageNet",
    source=f"{DINO}, Table 2",
    where={"source": "arXiv 2104.14294 Table 2"},
    corner="method",
    facts=("architecture", "params (M)"),
    columns=(
        PaperColumn(heading="linear", where={**LINEAR, "metric": "top1"}, is_measured=False),
        PaperColumn(
            heading="k-NN", where={"protocol": "knn_k20", "dataset": "ImageNet", "metric": "top1"}
        ),
    ),
    rows=(
        *(
            _dino(f"{method}, R50", "R50", "23")
            for method in (
                *("supervised", "SimCLR", "MoCo v2", "InfoMin", "Barlow Twins", "OBoW"),
                *("BYOL", "DCv2", "SwAV", "DINO"),
            )
        ),
        *(
            _dino(f"{method}, ViT-S", "ViT-S/16", "21")
            for method in ("supervised", "BYOL", "MoCo v2", "SwAV", "DINO")
        ),
        _dino("SimCLR, R50w4x", "R50w4x", "375"),
        _dino("SwAV, R50w2x", "R50w2x", "93"),
        _dino("BYOL, R200w2x", "R200w2x", "250"),
        _dino("DINO, ViT-B/16", "ViT-B/16", "85"),
        _dino("SwAV, R50w5x", "R50w5x", "586"),
        _dino("SimCLRv2, R152w3x+SK", "R152w3x+SK", "794"),
        _dino("DINO, ViT-B/8", "ViT-B/8", "85"),
        _dino("DINO, ViT-S/8", "ViT-S/8", "21"),
    ),
)

TABLES = (
    _twelve("simclr", "linear_lbfgs"),
    _twelve("simclr", "finetune"),
    _twelve("byol", "linear_lbfgs"),
    _twelve("byol", "finetune"),
    *(BYOL_1, BYOL_2, VICREG_1, VICREG_2, VICREG_11, DINO_2),
)
