"""The tables of MoCo v3, arXiv:2104.02057."""

from __future__ import annotations

from moco_eval.tables.papers.paper import PaperColumn, PaperRow, PaperTable, Where

PAPER = (
    "Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision Transformers, "
    "arXiv:2104.02057"
)
LINEAR = {"protocol": "linear", "dataset": "ImageNet", "metric": "top1"}
FINETUNE = {"protocol": "finetune", "dataset": "ImageNet", "metric": "top1"}
RESNET, VIT_S, VIT_B = "resnet50*", "vit_small*", "vit_base*"


def _settings(
    name: str,
    title: str,
    place: str,
    source: str,
    columns: dict[str, Where],
    corner: str = "linear acc.",
) -> PaperTable:
    """A table of one row, whose columns are settings of pretraining."""
    return PaperTable(
        id=f"moco-v3/{name}",
        title=title,
        source=f"{PAPER}, {place}",
        where={"source": source},
        corner="",
        columns=tuple(
            PaperColumn(heading=heading, where={**LINEAR, **where}, is_measured=False)
            for heading, where in columns.items()
        ),
        rows=(PaperRow(label=corner),),
        notes=("Top-1 of a linear probe on ImageNet, of ViT-B/16.",),
    )


RESNET_50 = PaperTable(
    id="moco-v3/resnet50",
    title="ResNet-50, 800 epochs: linear classification on ImageNet",
    source=f"{PAPER}, section 3",
    where={"source": "arXiv 2104.02057 Sec.3"},
    columns=(PaperColumn(heading="linear acc.", where=LINEAR, arch=RESNET),),
    rows=(
        PaperRow(label="MoCo v2", where={"method": "MoCo v2"}),
        PaperRow(label="MoCo v2+", where={"method": "MoCo v2+"}),
        PaperRow(label="MoCo v3", where={"method": "MoCo v3"}),
    ),
)

FIGURE_1 = _settings(
    *("figure1", "Batch sizes, 100 epochs", "Figure 1", "arXiv 2104.02057 Fig.1"),
    {
        batch: {"method": f"MoCo v3 (batch {batch}, lr 1e-4)"}
        for batch in ("1024", "2048", "4096", "6144")
    },
    corner="linear acc. by batch",
)

FIGURE_5 = PaperTable(
    id="moco-v3/figure5",
    title="Random against learned patch projection, 100 epochs",
    source=f"{PAPER}, Figure 5",
    where={"source": "arXiv 2104.02057 Fig.5"},
    corner="patch projection",
    columns=tuple(
        PaperColumn(heading=lr, group="learning rate x 1e-4", where=LINEAR, is_measured=False)
        for lr in ("0.5", "1.0", "1.5")
    ),
    rows=tuple(
        PaperRow(
            label=f"{kind} projection",
            cells={
                f"learning rate x 1e-4 {lr}": {"method": f"MoCo v3 ({kind} patch proj, lr {lr}e-4)"}
                for lr in ("0.5", "1.0", "1.5")
            },
        )
        for kind in ("learned", "random")
    ),
    notes=("Top-1 of a linear probe on ImageNet, of ViT-B/16.",),
)

SECTION_4_2 = PaperTable(
    id="moco-v3/section4.2",
    title="Patch projection of other methods, ViT-B/16, 100 epochs",
    source=f"{PAPER}, section 4.2",
    where={"source": "arXiv 2104.02057 Sec.4.2"},
    corner="patch projection",
    columns=tuple(
        PaperColumn(heading=method, where=LINEAR, is_measured=False)
        for method in ("SimCLR", "BYOL", "SwAV")
    ),
    rows=tuple(
        PaperRow(
            label=f"{kind} projection",
            cells={
                method: {"method": f"{method} ({kind} patch proj, v3 paper)"}
                for method in ("SimCLR", "BYOL", "SwAV")
            },
        )
        for kind in ("learned", "random")
    ),
    notes=("Top-1 of a linear probe on ImageNet.",),
)


def _large(label: str, arch: str, params: str, method: str = "MoCo v3") -> PaperRow:
    where = {"method": method, "architecture": arch, "params_m": params}
    return PaperRow(label=label, where=where, facts=(arch, params))


_TABLE_1 = {"source": "arXiv 2104.02057 Table 1"}
TABLE_1_LINEAR = PaperTable(
    id="moco-v3/table1-linear",
    title="Transformers pretrained on ImageNet: linear probing",
    source=f"{PAPER}, Table 1",
    where=_TABLE_1,
    corner="method",
    facts=("architecture", "params (M)"),
    columns=(PaperColumn(heading="acc. (%)", where=LINEAR),),
    rows=(
        _large("iGPT-L", "iGPT-L", "1362", "iGPT"),
        _large("iGPT-XL", "iGPT-XL", "6801", "iGPT"),
        _large("MoCo v3, ViT-B", "ViT-B/16", "86"),
        _large("MoCo v3, ViT-L", "ViT-L/16", "304"),
        _large("MoCo v3, ViT-H", "ViT-H", "632"),
        _large("MoCo v3, ViT-BN-H", "ViT-BN-H", "632"),
        _large("MoCo v3, ViT-BN-L/7", "ViT-BN-L/7", "304"),
    ),
)

TABLE_1_FINETUNE = PaperTable(
    id="moco-v3/table1-finetune",
    title="Transformers fine-tuned on ImageNet, end to end",
    source=f"{PAPER}, Table 1",
    where=_TABLE_1,
    corner="method",
    facts=("architecture", "params (M)"),
    columns=(PaperColumn(heading="acc. (%)", where=FINETUNE),),
    rows=(
        _large("masked patch pred., JFT-300M", "ViT-B/16", "86", "masked patch pred."),
        _large("DeiT, supervised", "ViT-B/16", "86", "DeiT supervised"),
        _large("MoCo v3, ViT-B", "ViT-B/16", "86"),
        _large("MoCo v3, ViT-L", "ViT-L/16", "304"),
    ),
)

_ARCHITECTURES = {
    "R50, 800-ep": ("R50", RESNET),
    "ViT-S, 300-ep": ("ViT-S/16 (12 heads)", VIT_S),
    "ViT-B, 300-ep": ("ViT-B/16", VIT_B),
}
TABLE_4 = PaperTable(
    id="moco-v3/table4",
    title="Self-supervised methods in one framework: linear probing on ImageNet",
    source=f"{PAPER}, Table 4",
    where={"source": "arXiv 2104.02057 Table 4"},
    corner="method",
    columns=tuple(
        PaperColumn(heading=heading, where={**LINEAR, "architecture": name}, arch=arch)
        for heading, (name, arch) in _ARCHITECTURES.items()
    ),
    rows=tuple(
        PaperRow(label=method, where={"method": f"{method} (v3 paper framework)"})
        for method in ("MoCo v3", "SimCLR", "BYOL", "SwAV")
    ),
)

_SETS = ("CIFAR-10", "CIFAR-100", "Flowers-102", "Oxford Pets")
_REPOSITORY = "github facebookresearch/moco-v3 transfer/README.md; arXiv 2104.02057 Table 6"
TABLE_6 = PaperTable(
    id="moco-v3/table6",
    title="Transformers pretrained on ImageNet, fine-tuned on other sets",
    source=f"{PAPER}, Table 6",
    where={"source": "arXiv 2104.02057 Table 6"},
    corner="pretraining",
    columns=tuple(
        PaperColumn(
            heading=dataset, where={"protocol": "finetune", "dataset": dataset, "metric": "top1"}
        )
        for dataset in _SETS
    ),
    rows=(
        PaperRow(label="random init., ViT-B", where={"method": "random"}),
        PaperRow(label="ImageNet supervised, ViT-B", where={"method": "supervised"}),
        PaperRow(
            label="MoCo v3, ViT-B",
            where={"method": "MoCo v3 (repo)", "source": _REPOSITORY},
            has_rule=True,
        ),
        PaperRow(label="MoCo v3, ViT-L", where={"method": "MoCo v3", "architecture": "ViT-L/16"}),
        PaperRow(label="MoCo v3, ViT-H", where={"method": "MoCo v3", "architecture": "ViT-H"}),
    ),
)

_ABLATIONS = "arXiv 2104.02057 Sec.6.1 ablations"
# What is not ablated is the same pretraining in each table.
_DEFAULT = {"method": "MoCo v3 (sin-cos pos)"}


def _ablation(name: str, title: str, columns: dict[str, Where]) -> PaperTable:
    title = f"{title}, ViT-B/16, 300 epochs"
    return _settings(name, title, "section 6.1", _ABLATIONS, columns)


POSITION = _ablation(
    "position",
    "Position embedding",
    {
        "sin-cos": _DEFAULT,
        "learned": {"method": "MoCo v3 (learned pos)"},
        "none": {"method": "MoCo v3 (no pos)"},
    },
)
CLASS_TOKEN = _ablation(
    "class-token",
    "Class token",
    {
        "w/ [CLS]": _DEFAULT,
        "w/o [CLS]; LN+pool": {"method": "MoCo v3 (no CLS, LN+pool)"},
        "w/o [CLS]; pool": {"method": "MoCo v3 (no CLS, pool)"},
    },
)
HEAD_BN = _ablation(
    "head-bn",
    "BatchNorm in MLP heads",
    {"heads w/ BN": _DEFAULT, "heads w/o BN": {"method": "MoCo v3 (head without BN)"}},
)
PREDICTOR = _ablation(
    "predictor",
    "Prediction head",
    {"w/ predictor": _DEFAULT, "w/o predictor": {"method": "MoCo v3 (predictor none)"}},
)
MOMENTUM = _ablation(
    "momentum",
    "Momentum of the key encoder",
    {f"m = {m}": {"method": f"MoCo v3 (m={m})"} for m in ("0", "0.9", "0.99", "0.999")},
)

LENGTH = PaperTable(
    id="moco-v3/length",
    title="Length of pretraining: linear probing on ImageNet",
    source=f"{PAPER}, section 6.1",
    corner="epochs",
    columns=tuple(
        PaperColumn(heading=heading, where={**LINEAR, "architecture": name}, arch=arch)
        for heading, name, arch in (
            ("ViT-S/16", "ViT-S/16 (12 heads)", VIT_S),
            ("ViT-B/16", "ViT-B/16", VIT_B),
        )
    ),
    rows=(
        PaperRow(
            label="300",
            where={
                "method": "MoCo v3 (v3 paper framework)",
                "source": "arXiv 2104.02057 Table 4",
            },
        ),
        PaperRow(
            label="600",
            where={
                "method": "MoCo v3",
                "source": "arXiv 2104.02057 Sec.6.1",
                "pretrain_epochs": "600",
            },
        ),
    ),
)

_README = "github facebookresearch/moco-v3 README.md"
README = PaperTable(
    id="moco-v3/repository",
    title="The encoders that the authors released",
    source="facebookresearch/moco-v3, README.md",
    where={"source": _README, "method": "MoCo v3 (repo)"},
    corner="encoder",
    facts=("epochs",),
    columns=(
        PaperColumn(heading="linear acc.", where=LINEAR),
        PaperColumn(heading="fine-tuned acc.", where=FINETUNE),
    ),
    rows=(
        *(
            PaperRow(
                label=f"ResNet-50, {epochs} epochs",
                where={"architecture": "R50", "pretrain_epochs": epochs},
                facts=(epochs,),
                cells={"fine-tuned acc.": None},
            )
            for epochs in ("100", "300", "1000")
        ),
        PaperRow(label="ViT-Small", where={"architecture": "ViT-S/16 (12 heads)"}, facts=("300",)),
        PaperRow(label="ViT-Base", where={"architecture": "ViT-B/16"}, facts=("300",)),
    ),
)

TABLES = (
    *(RESNET_50, TABLE_1_LINEAR, TABLE_1_FINETUNE, TABLE_4, TABLE_6, FIGURE_1, FIGURE_5),
    *(SECTION_4_2, POSITION, CLASS_TOKEN, HEAD_BN, PREDICTOR, MOMENTUM, LENGTH, README),
)
