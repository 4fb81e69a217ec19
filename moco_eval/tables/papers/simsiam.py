"""The tables of SimSiam, arXiv:2011.10566, that compare methods."""

from __future__ import annotations

from moco_eval.tables.papers.paper import PaperColumn, PaperRow, PaperTable, triple

PAPER = "Chen and He, Exploring Simple Siamese Representation Learning, arXiv:2011.10566"
LINEAR = {"protocol": "linear", "dataset": "ImageNet", "metric": "top1"}

_EPOCHS = ("100", "200", "400", "800")
TABLE_4 = PaperTable(
    id="simsiam/table4",
    title="Linear classification on ImageNet, ResNet-50, two 224 x 224 views",
    source=f"{PAPER}, Table 4",
    where={"source": "arXiv 2011.10566 Table 4"},
    corner="method",
    columns=tuple(
        PaperColumn(
            heading=f"{epochs} ep",
            where={**LINEAR, "pretrain_epochs": epochs},
            is_measured=False,
        )
        for epochs in _EPOCHS
    ),
    rows=(
        PaperRow(
            label="SimCLR (repro.+)",
            where={"method": "SimCLR+ (SimSiam repro)"},
        ),
        PaperRow(
            label="MoCo v2 (repro.+)",
            where={"method": "MoCo v2+ (SimSiam repro)"},
        ),
        PaperRow(
            label="BYOL (repro.)",
            where={"method": "BYOL (SimSiam repro)"},
        ),
        PaperRow(
            label="SwAV (repro.+)",
            where={"method": "SwAV+ (SimSiam repro)"},
        ),
        PaperRow(label="SimSiam", where={"method": "SimSiam"}),
    ),
    notes=(
        "All of the authors' own reproduction; + says that it is better than the original. "
        "Columns are lengths of pretraining.",
    ),
)

_VOC = ("AP50", "AP", "AP75")
TABLE_5 = PaperTable(
    id="simsiam/table5",
    title="Transfer: all pretrained for 200 epochs and fine-tuned with R50-C4",
    source=f"{PAPER}, Table 5",
    where={"source": "arXiv 2011.10566 Table 5"},
    columns=(
        *triple("VOC 07 detection", "voc_det_c4_9k", "VOC07 test2007", _VOC),
        *triple("VOC 07+12 detection", "voc_det_c4_24k", "VOC07+12 test2007", _VOC),
        *triple(
            *("COCO detection", "coco_maskrcnn_c4_1x", "COCO val2017"),
            ("APbb50:AP50", "APbb:AP", "APbb75:AP75"),
        ),
        *triple(
            *("COCO instance seg.", "coco_maskrcnn_c4_1x", "COCO val2017"),
            ("APmk50:AP50 mask", "APmk:AP mask", "APmk75:AP75 mask"),
        ),
    ),
    rows=(
        PaperRow(label="scratch", where={"method": "random (SimSiam T5)"}),
        PaperRow(label="ImageNet supervised", where={"method": "supervised (SimSiam T5)"}),
        PaperRow(label="SimCLR (repro.+)", where={"method": "SimCLR (SimSiam T5)"}, has_rule=True),
        PaperRow(label="MoCo v2 (repro.+)", where={"method": "MoCo v2 (SimSiam T5)"}),
        PaperRow(label="BYOL (repro.)", where={"method": "BYOL (SimSiam T5)"}),
        PaperRow(label="SwAV (repro.+)", where={"method": "SwAV (SimSiam T5)"}),
        PaperRow(label="SimSiam, base", where={"method": "SimSiam (base)"}, has_rule=True),
        PaperRow(label="SimSiam, optimal", where={"method": "SimSiam (optimal)"}),
    ),
    notes=("The paper chooses the learning rate of fine-tuning for each method.",),
)


def _original(method: str, name: str, epochs: str) -> PaperColumn:
    where = {**LINEAR, "method": name, "pretrain_epochs": epochs}
    return PaperColumn(heading=f"{epochs} ep", group=method, where=where, is_measured=False)


TABLE_C1 = PaperTable(
    id="simsiam/tableC1",
    title="The methods as their own papers report them: linear classification on ImageNet",
    source=f"{PAPER}, Table C.1",
    where={"source": "arXiv 2011.10566 Table C.1"},
    corner="",
    columns=(
        *(_original("SimCLR", "SimCLR (original)", epochs) for epochs in ("200", "800", "1000")),
        *(_original("MoCo v2", "MoCo v2 (original)", epochs) for epochs in ("200", "800")),
        *(_original("BYOL", "BYOL (original)", epochs) for epochs in ("300", "1000")),
        _original("SwAV", "SwAV (original, 2x224)", "400"),
    ),
    rows=(PaperRow(label="original"),),
    notes=("The row of the authors' reproduction is, but for other lengths, in Table 4.",),
)

TABLES = (TABLE_4, TABLE_5, TABLE_C1)
