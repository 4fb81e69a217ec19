"""Every author's naming, as data: a row of ``FORMATS`` says how one layout is read."""

from __future__ import annotations

from moco_eval.encoders.formats.clip import CLIP
from moco_eval.encoders.formats.clustering import CLUSTERING
from moco_eval.encoders.formats.codebases import CODEBASES
from moco_eval.encoders.formats.detection import DETECTION
from moco_eval.encoders.formats.distillation import DISTILLATION
from moco_eval.encoders.formats.huggingface import HUGGINGFACE
from moco_eval.encoders.formats.layout import Format
from moco_eval.encoders.formats.libraries import BARE, LIBRARIES
from moco_eval.encoders.formats.lightly import LIGHTLY
from moco_eval.encoders.formats.lightning import LIGHTNING
from moco_eval.encoders.formats.masked import MASKED
from moco_eval.encoders.formats.moco import CONVERTED, MOCO, PRETRAINED
from moco_eval.encoders.formats.openmmlab import OPENMMLAB
from moco_eval.encoders.formats.siamese import SIAMESE
from moco_eval.encoders.formats.simclr import SIMCLR
from moco_eval.encoders.formats.supervised import SUPERVISED
from moco_eval.encoders.formats.vissl import VISSL
from moco_eval.errors import unknown

# The most specific first: a file belongs to the first row whose marks it bears.
FORMATS: tuple[Format, ...] = (
    CONVERTED,
    *OPENMMLAB,
    *MOCO,
    *VISSL,
    *LIGHTLY,
    *SIMCLR,
    *CLUSTERING,
    *SIAMESE,
    *CODEBASES,
    *DISTILLATION,
    *MASKED,
    *SUPERVISED,
    *HUGGINGFACE,
    *CLIP,
    *DETECTION,
    *LIBRARIES,
    PRETRAINED,
    *LIGHTNING,
    *BARE,
)


def format_named(name: str) -> Format:
    """The row called ``name``.

    Raises:
        UsageError: If there is none; the nearest name is offered.
    """
    rows = {row.name: row for row in FORMATS}
    if name not in rows:
        raise unknown("format", name, rows)
    return rows[name]
