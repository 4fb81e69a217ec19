"""The tables of MoCo v2, arXiv:2003.04297."""

from __future__ import annotations

from moco_eval.tables.papers.paper import PaperColumn, PaperRow, PaperTable, Where, nothing, triple

PAPER = "Chen et al., Improved Baselines with Momentum Contrastive Learning, arXiv:2003.04297"
LINEAR = {"protocol": "linear", "dataset": "ImageNet", "metric": "top1"}

TEMPERATURE = PaperTable(
    id="moco-v2/temperature",
    title="The temperature, without and with an MLP head",
    source=f"{PAPER}, section 3",
    where={"source": "arXiv 2003.04297 Sec.3 tau table"},
    corner="",
    columns=tuple(
        PaperColumn(heading=tau, group="temperature τ", where=LINEAR, is_measured=False)
        for tau in ("0.07", "0.1", "0.2", "0.3", "0.4", "0.5")
    ),
    rows=tuple(
        PaperRow(
            label=label,
            cells={
                f"temperature τ {tau}": {"method": f"{method} tau={tau}"}
                for tau in ("0.07", "0.1", "0.2", "0.3", "0.4", "0.5")
            },
        )
        for label, method in (("w/o MLP", "MoCo v1"), ("w/ MLP", "MoCo v1 + MLP"))
    ),
    notes=("Top-1 of a linear probe on ImageNet after 200 epochs.",),
)

_VOC = "VOC detection"
_V1 = {"source": "arXiv 1911.05722 Table 2b"}
# The file has these of MoCo v1's Table 2, which prints the same.
_AS_IN_V1: dict[str, Where] = {f"{_VOC} AP50": _V1, f"{_VOC} AP75": _V1}


def _case(label: str, settings: str, method: str, epochs: str) -> PaperRow:
    """``settings``: whether it has an MLP head, more augmentation, and a cosine schedule."""
    marks = tuple("yes" if each == "x" else "" for each in settings)
    return PaperRow(
        label=label,
        where={"method": method, "pretrain_epochs": epochs},
        facts=(*marks, epochs),
    )


TABLE_1 = PaperTable(
    id="moco-v2/table1",
    title="Ablation of the MoCo baselines",
    source=f"{PAPER}, Table 1",
    where={"source": "arXiv 2003.04297 Table 1"},
    corner="case",
    facts=("MLP", "aug+", "cos", "epochs"),
    columns=(
        PaperColumn(heading="acc.", group="ImageNet", where=LINEAR),
        *triple(_VOC, "voc_det_c4_24k", "VOC07+12 test2007", ("AP50", "AP", "AP75")),
    ),
    rows=(
        PaperRow(
            label="supervised",
            where={"method": "supervised"},
            facts=("", "", "", ""),
            cells=_AS_IN_V1,
        ),
        PaperRow(
            label="MoCo v1",
            where={"method": "MoCo v1", "pretrain_data": "IN-1M"},
            facts=("", "", "", "200"),
            cells=_AS_IN_V1,
            has_rule=True,
        ),
        _case("(a)", "x..", "MoCo v2 (a: MLP)", "200"),
        _case("(b)", ".x.", "MoCo v2 (b: aug+)", "200"),
        _case("(c)", "xx.", "MoCo v2 (c: MLP+aug+)", "200"),
        _case("(d)", "xxx", "MoCo v2 (d: MLP+aug+ +cos)", "200"),
        _case("(e)", "xxx", "MoCo v2 (e: MLP+aug+ +cos)", "800"),
    ),
)


def _compared(label: str, epochs: str, batch: str) -> PaperRow:
    where = {"method": f"{label.partition(',')[0]} (batch {batch})", "pretrain_epochs": epochs}
    return PaperRow(label=label, where=where, facts=(epochs, batch))


TABLE_2 = PaperTable(
    id="moco-v2/table2",
    title="MoCo against SimCLR: linear classification on ImageNet",
    source=f"{PAPER}, Table 2",
    where={"source": "arXiv 2003.04297 Table 2"},
    corner="case",
    facts=("epochs", "batch"),
    columns=(PaperColumn(heading="ImageNet acc.", where=LINEAR),),
    rows=(
        _compared("SimCLR, 200 epochs, batch 256", "200", "256"),
        _compared("SimCLR, 200 epochs, batch 8192", "200", "8192"),
        _compared("MoCo v2, 200 epochs", "200", "256"),
        _compared("SimCLR, 1000 epochs", "1000", "4096"),
        _compared("MoCo v2, 800 epochs", "800", "256"),
    ),
)

TABLE_3 = PaperTable(
    id="moco-v2/table3",
    title="Memory and time of pretraining on 8 V100 GPUs",
    source=f"{PAPER}, Table 3",
    where={"source": "arXiv 2003.04297 Table 3", "protocol": "cost", "dataset": "ImageNet"},
    corner="mechanism",
    facts=("batch",),
    columns=tuple(
        PaperColumn(
            heading=heading,
            where={"protocol": "cost", "dataset": "ImageNet", "metric": metric},
            is_measured=False,
            higher_better=False,
        )
        for heading, metric in (
            ("memory / GPU (GB)", "gpu_mem_GB"),
            ("time / 200 epochs (h)", "hours_200ep"),
        )
    ),
    rows=(
        PaperRow(label="MoCo", where={"method": "MoCo (batch 256, 8 V100)"}, facts=("256",)),
        PaperRow(
            label="end-to-end",
            where={"method": "end-to-end (batch 256, 8 V100)"},
            facts=("256",),
        ),
        PaperRow(
            label="end-to-end, large batch",
            where={"method": "end-to-end (batch 4096, 8 V100, est.)"},
            facts=("4096",),
            cells=nothing("time / 200 epochs (h)"),
        ),
    ),
    notes=("The large batch's memory is the paper's estimate; it gives no time for it.",),
)

TABLES = (TEMPERATURE, TABLE_1, TABLE_2, TABLE_3)
