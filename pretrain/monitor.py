"""What to watch while an encoder trains: loss and contrast step by step, kNN epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from moco_eval import knn
from moco_eval.data.catalog import ImageData
from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import without_projector
from moco_eval.errors import output_error
from moco_eval.files import write_text


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, in the order of the steps.

    Args:
        path: The file; what an interrupted run wrote after ``first_step`` is dropped.
        first_step: Where this run begins.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] < first_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, in the file when this returns.

        Raises:
            OutputError: If it cannot be written.
        """
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise output_error(self.path, error) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, without a torn last line; none where there is no file."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def online_knn(network: nn.Module, spec: InputSpec, data: ImageData) -> float:
    """Top-1 in percent of a kNN classifier on the network's pooled features, as it is now."""
    manifest = Manifest(
        source="online", format="online", tower="", arch="", input=spec, num_loaded=0
    )
    encoder = Encoder(without_projector(network), manifest)
    recipe = knn.RECIPES[knn.DEFAULT_RECIPE]
    outcome = knn.evaluate(encoder, recipe, data, seed=0, work_dir=Path())
    return outcome.metrics["top1"]
