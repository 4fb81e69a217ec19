"""Every author's naming, as data: a row of ``FORMATS`` says how one layout is read."""

from __future__ import annotations

from moco_eval.encoders.formats.clustering import CLUSTERING
from moco_eval.encoders.formats.codebases import CODEBASES
from moco_eval.encoders.formats.detection import DETECTION
from moco_eval.encoders.formats.layout import Format
from moco_eval.encoders.formats.libraries import BARE, LIBRARIES
from moco_eval.encoders.formats.lightly import LIGHTLY
from moco_eval.encoders.formats.moco import CONVERTED, MOCO, PRETRAINED
from moco_eval.encoders.formats.siamese import SIAMESE
from moco_eval.encoders.formats.simclr import SIMCLR
from moco_eval.encoders.formats.vissl import VISSL
from moco_eval.errors import unknown

# The most specific first: a file belongs to the first row whose marks it bears.
FORMATS: tuple[Format, ...] = (
    CONVERTED,
    *MOCO,
    *VISSL,
    *LIGHTLY,
    *SIMCLR,
    *CLUSTERING,
    *SIAMESE,
    *CODEBASES,
    *DETECTION,
    *LIBRARIES,
    PRETRAINED,
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
