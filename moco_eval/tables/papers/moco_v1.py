"""The tables of MoCo (v1), arXiv:1911.05722."""

from __future__ import annotations

from dataclasses import replace

from moco_eval.tables.papers.paper import PaperColumn, PaperRow, PaperTable, nothing, triple

PAPER = (
    "He et al., Momentum Contrast for Unsupervised Visual Representation Learning, arXiv:1911.05722"
)
LINEAR = {"protocol": "linear", "dataset": "ImageNet", "metric": "top1"}
VOC = ("AP50", "AP", "AP75")
COCO = ("APbb", "APbb50", "APbb75", "APmk", "APmk50", "APmk75")
GREEN = "In parentheses: the difference to supervised pretraining on ImageNet."

RANDOM = PaperRow(label="random init.", where={"method": "random"})
SUPERVISED = PaperRow(label="super. IN-1M", where={"method": "supervised"})
MOCO_IN = PaperRow(
    label="MoCo IN-1M", where={"method": "MoCo v1", "pretrain_data": "IN-1M"}, has_deltas=True
)
MOCO_IG = PaperRow(
    label="MoCo IG-1B", where={"method": "MoCo v1", "pretrain_data": "IG-1B"}, has_deltas=True
)
FOUR_ROWS = (RANDOM, SUPERVISED, MOCO_IN, MOCO_IG)

_KEYS = ("256", "512", "1024", "4096", "16384", "65536")


def _mechanism(label: str, method: str, num_keys: int = len(_KEYS)) -> PaperRow:
    cells = {
        f"K {keys}": {"method": f"{method} (K={keys})"} if place < num_keys else None
        for place, keys in enumerate(_KEYS)
    }
    return PaperRow(label=label, cells=cells)


FIGURE_3 = PaperTable(
    id="moco-v1/figure3",
    title="Three contrastive loss mechanisms, by the number of negatives K",
    source=f"{PAPER}, Figure 3",
    where={"source": "arXiv 1911.05722 Fig.3", **LINEAR},
    corner="mechanism",
    columns=tuple(
        PaperColumn(heading=keys, group="K", where=LINEAR, is_measured=False) for keys in _KEYS
    ),
    rows=(
        _mechanism("end-to-end", "end-to-end", 3),
        _mechanism("memory bank", "memory bank"),
        _mechanism("MoCo", "MoCo v1"),
    ),
    notes=(
        "Top-1 of a linear probe on ImageNet. Of end-to-end K is the mini-batch, which memory "
        "bounds.",
    ),
)

MOMENTUM = PaperTable(
    id="moco-v1/momentum",
    title="The momentum of the key encoder, K = 4096",
    source=f"{PAPER}, section 4.1",
    where={"source": "arXiv 1911.05722 Sec.4.1 momentum table", **LINEAR},
    corner="",
    columns=tuple(
        PaperColumn(
            heading=momentum,
            group="momentum m",
            where={**LINEAR, "method": f"MoCo v1 (K=4096, m={momentum})"},
            is_measured=False,
        )
        for momentum in ("0.9", "0.99", "0.999", "0.9999")
    ),
    rows=(PaperRow(label="accuracy (%)"),),
    notes=(
        "Top-1 of a linear probe on ImageNet. With m = 0 the paper prints that training fails.",
    ),
)


def _encoder(label: str, method: str, arch: str, params: str, **where: str) -> PaperRow:
    row = {"method": method, "architecture": arch, "params_m": params, **where}
    return PaperRow(label=label, where=row, facts=(arch, params))


TABLE_1 = PaperTable(
    id="moco-v1/table1",
    title="Linear classification on ImageNet",
    source=f"{PAPER}, Table 1",
    where={"source": "arXiv 1911.05722 Table 1"},
    corner="method",
    facts=("architecture", "params (M)"),
    columns=(PaperColumn(heading="accuracy (%)", where=LINEAR),),
    rows=(
        _encoder("Exemplar", "Exemplar", "R50w3x", "211"),
        _encoder("RelativePosition", "RelativePosition", "R50w2x", "94"),
        _encoder("Jigsaw", "Jigsaw", "R50w2x", "94"),
        _encoder("Rotation", "Rotation", "Rv50w4x", "86"),
        _encoder("Colorization", "Colorization", "R101*", "28"),
        _encoder("DeepCluster", "DeepCluster", "VGG", "15"),
        _encoder("BigBiGAN, R50", "BigBiGAN", "R50", "24"),
        _encoder("BigBiGAN, Rv50w4x", "BigBiGAN", "Rv50w4x", "86"),
        replace(_encoder("InstDisc", "InstDisc", "R50", "24"), has_rule=True),
        _encoder("LocalAgg", "LocalAgg", "R50", "24"),
        _encoder("CPC v1", "CPC v1", "R101*", "28"),
        _encoder("CPC v2", "CPC v2", "R170*wider", "303"),
        _encoder("CMC, R50 +", "CMC (FastAutoAugment)", "R50_L+ab", "47"),
        _encoder("CMC, R50w2x +", "CMC (FastAutoAugment)", "R50w2x_L+ab", "188"),
        _encoder("AMDIM small +", "AMDIM small (FastAutoAugment)", "AMDIM", "194"),
        _encoder("AMDIM large +", "AMDIM large (FastAutoAugment)", "AMDIM", "626"),
        replace(_encoder("MoCo, R50", "MoCo v1", "R50", "24"), has_rule=True),
        _encoder("MoCo, RX50", "MoCo v1", "RX50", "46"),
        _encoder("MoCo, R50w2x", "MoCo v1", "R50w2x", "94"),
        _encoder("MoCo, R50w4x", "MoCo v1", "R50w4x", "375"),
    ),
    notes=("+ pretrained with FastAutoAugment, which ImageNet's labels supervised.",),
)

_VOC07_12 = "VOC07+12 test2007"
TABLE_2 = PaperTable(
    id="moco-v1/table2",
    title="Object detection on PASCAL VOC: trainval07+12 to test2007, 24k iterations, mean of 5",
    source=f"{PAPER}, Table 2",
    columns=(
        *triple(
            *("(a) Faster R-CNN, R50-dilated-C5", "voc_det_dc5_24k", _VOC07_12, VOC),
            source="arXiv 1911.05722 Table 2a",
        ),
        *triple(
            *("(b) Faster R-CNN, R50-C4", "voc_det_c4_24k", _VOC07_12, VOC),
            source="arXiv 1911.05722 Table 2b",
        ),
    ),
    rows=FOUR_ROWS,
    baseline=SUPERVISED.label,
    notes=(GREEN,),
)

_DC5, _C4 = "R50-dilated-C5", "R50-C4"
_IN_TABLE_2 = {
    **{f"{_DC5} {metric}": {"source": "arXiv 1911.05722 Table 2a"} for metric in VOC},
    **{f"{_C4} {metric}": {"source": "arXiv 1911.05722 Table 2b"} for metric in VOC},
}
TABLE_3 = PaperTable(
    id="moco-v1/table3",
    title="Three contrastive loss mechanisms: detection on PASCAL VOC",
    source=f"{PAPER}, Table 3",
    corner="mechanism",
    where={"pretrain_data": "IN-1M"},
    columns=(
        *triple(_DC5, "voc_det_dc5_24k", _VOC07_12, VOC, source="arXiv 1911.05722 Table 3"),
        *triple(_C4, "voc_det_c4_24k", _VOC07_12, VOC, source="arXiv 1911.05722 Table 3"),
    ),
    rows=(
        PaperRow(label="end-to-end", where={"method": "end-to-end"}),
        PaperRow(label="memory bank", where={"method": "memory bank"}),
        PaperRow(label="MoCo", where={"method": "MoCo v1"}, cells=_IN_TABLE_2),
    ),
    notes=("All pretrained on ImageNet; MoCo's row repeats Table 2.",),
)

_METHODS = {
    "RelPos": "RelativePosition",
    "Multi-task": "Multi-task",
    "Jigsaw": "Jigsaw",
    "LocalAgg": "LocalAgg",
}
_VOC07 = {"protocol": "voc_det_c4_9k", "dataset": "VOC07 test2007"}


def _column_of(method: str, metric: str) -> PaperColumn:
    """A method's column: MoCo's can be measured, the others are of other detectors."""
    if method == "MoCo":
        return PaperColumn(heading=method, group=metric, where={**_VOC07, "metric": metric})
    where = {**_VOC07, "metric": metric, "method": _METHODS[method]}
    return PaperColumn(heading=method, group=metric, where=where, is_measured=False)


TABLE_4 = PaperTable(
    id="moco-v1/table4",
    title="Object detection on PASCAL VOC: trainval2007 to test2007, Faster R-CNN, R50-C4",
    source=f"{PAPER}, Table 4",
    where={"source": "arXiv 1911.05722 Table 4"},
    columns=(
        *(_column_of(method, "AP50") for method in (*_METHODS, "MoCo")),
        _column_of("MoCo", "AP"),
        _column_of("Multi-task", "AP75"),
        _column_of("MoCo", "AP75"),
    ),
    rows=(
        PaperRow(
            label="super. IN-1M",
            where={"pretrain_data": "IN-1M labels"},
            cells={
                **{f"AP50 {m}": {"method": f"supervised ({m} ref)"} for m in _METHODS},
                "AP75 Multi-task": {"method": "supervised (Multi-task ref)"},
                **{f"{metric} MoCo": {"method": "supervised"} for metric in VOC},
            },
        ),
        *(
            PaperRow(
                label=f"unsup. {data}",
                where={"pretrain_data": data},
                cells={
                    **nothing(*empty),
                    **{f"{metric} MoCo": {"method": "MoCo v1"} for metric in VOC},
                },
                has_deltas=True,
            )
            for data, empty in (
                ("IN-1M", ()),
                ("IN-14M", ("AP50 RelPos", "AP50 Multi-task", "AP50 LocalAgg", "AP75 Multi-task")),
                (
                    "YFCC-100M",
                    ("AP50 RelPos", "AP50 Multi-task", "AP50 LocalAgg", "AP75 Multi-task"),
                ),
                ("IG-1B", (*(f"AP50 {method}" for method in _METHODS), "AP75 Multi-task")),
            )
        ),
    ),
    baseline="super. IN-1M",
    notes=(
        f"{GREEN} The columns of other methods are of their papers' detectors: only MoCo's can "
        "be measured with this recipe.",
    ),
)

_SCHEDULES = {
    "a": ("(a) Mask R-CNN, R50-FPN, 1x", "coco_maskrcnn_fpn_1x"),
    "b": ("(b) Mask R-CNN, R50-FPN, 2x", "coco_maskrcnn_fpn_2x"),
    "c": ("(c) Mask R-CNN, R50-C4, 1x", "coco_maskrcnn_c4_1x"),
    "d": ("(d) Mask R-CNN, R50-C4, 2x", "coco_maskrcnn_c4_2x"),
}
TABLE_5 = PaperTable(
    id="moco-v1/table5",
    title="Object detection and instance segmentation on COCO: train2017 to val2017",
    source=f"{PAPER}, Table 5",
    columns=tuple(
        column
        for part, (group, protocol) in _SCHEDULES.items()
        for column in triple(
            *(group, protocol, "COCO val2017", COCO), source=f"arXiv 1911.05722 Table 5{part}"
        )
    ),
    rows=FOUR_ROWS,
    baseline=SUPERVISED.label,
    notes=(
        f"{GREEN} bb: boxes, mk: masks. In (c), random init. has higher masks than boxes in the "
        "paper, too.",
    ),
)

_TABLE_6 = {"source": "arXiv 1911.05722 Table 6"}
TABLE_6 = PaperTable(
    id="moco-v1/table6",
    title="MoCo against ImageNet supervised pretraining, fine-tuned on various tasks",
    source=f"{PAPER}, Table 6",
    columns=(
        *triple(
            *("COCO keypoint", "coco_keypoint_fpn_2x", "COCO val2017"),
            ("APkp", "APkp50", "APkp75"),
            **_TABLE_6,
        ),
        *(
            replace(column, is_measured=False)
            for column in triple(
                *("COCO dense pose", "coco_densepose_fpn_1x", "COCO DensePose"),
                ("APdp", "APdp50", "APdp75"),
                **_TABLE_6,
            )
        ),
        *triple(
            *("LVIS v0.5 instances", "lvis_v0.5_fpn_2x", "LVIS v0.5 val"),
            ("APmk", "APmk50", "APmk75"),
            **_TABLE_6,
        ),
        *triple(
            *("Cityscapes instances", "cityscapes_instseg_fpn", "Cityscapes val"),
            ("APmk", "APmk50"),
            **_TABLE_6,
        ),
        *triple(
            *("semantic segmentation", "cityscapes_semseg_fcn16s", "Cityscapes val"),
            ("mIoU:Cityscapes mIoU",),
            **_TABLE_6,
        ),
        *triple(
            *("semantic segmentation", "voc_semseg_fcn16s", "VOC12 val"),
            ("mIoU:VOC mIoU",),
            **_TABLE_6,
        ),
    ),
    rows=(
        RANDOM,
        replace(
            SUPERVISED,
            cells={
                f"LVIS v0.5 instances {metric}": {"method": "supervised (frozen BN)"}
                for metric in ("APmk", "APmk50", "APmk75")
            },
        ),
        MOCO_IN,
        MOCO_IG,
    ),
    baseline=SUPERVISED.label,
    notes=(
        f"{GREEN} On LVIS the supervised encoder's norms are frozen, which is better for it "
        "(appendix A.4).",
    ),
)

TABLE_A1 = PaperTable(
    id="moco-v1/tableA1",
    title="Detection and instance segmentation on COCO: 6x schedule, Mask R-CNN, R50-FPN",
    source=f"{PAPER}, Table A.1",
    columns=triple(
        *("Mask R-CNN, R50-FPN, 6x", "coco_maskrcnn_fpn_6x", "COCO val2017", COCO),
        source="arXiv 1911.05722 Table A.1",
    ),
    rows=FOUR_ROWS,
    baseline=SUPERVISED.label,
    notes=(GREEN,),
)

_MASKS = ("APmk", "APmk50", "APmk75")
_A4 = "arXiv 1911.05722 App. A.4"
_2X_IN_TABLE_6 = {f"2x schedule {metric}": _TABLE_6 for metric in _MASKS}


def _tuned(label: str, data: str) -> PaperRow:
    """MoCo, whose 2x numbers are those of Table 6."""
    cells = {f"2x schedule {metric}": {**_TABLE_6, "method": "MoCo v1"} for metric in _MASKS}
    where = {"method": "MoCo v1 (tuned BN)", "pretrain_data": data}
    return PaperRow(label=label, where=where, facts=("tuned",), cells=cells)


APPENDIX_A4 = PaperTable(
    id="moco-v1/appendixA4",
    title="Instance segmentation on LVIS v0.5: Mask R-CNN, R50-FPN",
    source=f"{PAPER}, appendix A.4",
    where={"source": _A4},
    facts=("BN",),
    columns=(
        *triple("1x schedule", "lvis_v0.5_fpn_1x", "LVIS v0.5 val", _MASKS),
        *triple("2x schedule", "lvis_v0.5_fpn_2x", "LVIS v0.5 val", _MASKS),
    ),
    rows=(
        PaperRow(
            label="super. IN-1M, frozen BN",
            where={"method": "supervised (frozen BN)"},
            facts=("frozen",),
            cells=_2X_IN_TABLE_6,
        ),
        PaperRow(
            label="super. IN-1M, tuned BN",
            where={"method": "supervised (tuned BN)"},
            facts=("tuned",),
        ),
        _tuned("MoCo IN-1M, tuned BN", "IN-1M"),
        _tuned("MoCo IG-1B, tuned BN", "IG-1B"),
    ),
)

_PLAIN_ROWS = tuple(replace(row, has_deltas=False) for row in FOUR_ROWS)
APPENDIX_A6 = PaperTable(
    id="moco-v1/appendixA6",
    title="Fine-tuning on iNaturalist 2018",
    source=f"{PAPER}, appendix A.6",
    where={"source": "arXiv 1911.05722 App. A.6"},
    columns=triple("", "finetune", "iNaturalist18", ("top1:accuracy (%)",)),
    rows=_PLAIN_ROWS,
)

APPENDIX_A7 = PaperTable(
    id="moco-v1/appendixA7",
    title="Fine-tuning on ImageNet",
    source=f"{PAPER}, appendix A.7",
    where={"source": "arXiv 1911.05722 App. A.7"},
    columns=triple("", "finetune", "ImageNet", ("top1:accuracy (%)",)),
    rows=tuple(row for row in _PLAIN_ROWS if row.label != SUPERVISED.label),
)

TABLES = (
    *(FIGURE_3, MOMENTUM, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_A1),
    *(APPENDIX_A4, APPENDIX_A6, APPENDIX_A7),
)
