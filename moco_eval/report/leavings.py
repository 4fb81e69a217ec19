"""What runs left beside their records: pictures, found by the run's id or the encoder's source."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from moco_eval.errors import UsageError, unknown
from moco_eval.files import sha256_of
from moco_eval.report.picture import HEADINGS, Picture, read

Record = Mapping[str, Any]
Extent = Literal["all", "first-seed", "none"]

# What a pretraining leaves to look at.
PRETRAINING = ("loss", "embeddings", "knn", "views")


def require_extent(extent: str) -> None:
    """Check the value of ``--pictures``.

    Raises:
        UsageError: If there is no such choice.
    """
    if extent not in get_args(Extent):
        raise unknown("choice of pictures", extent, get_args(Extent))


def run_folders(work: Path) -> dict[str, Path]:
    """The folder of each run below ``work`` that says, in a file ``run_id``, which record it made.

    Of several that name one record, as copies do, the first by name counts.
    """
    folders: dict[str, Path] = {}
    for folder, below, names in os.walk(work):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "run_id" in names:
            run_id = (Path(folder) / "run_id").read_text(errors="replace").strip()
            folders.setdefault(run_id, Path(folder))
    return folders


def shown_runs(records: Iterable[Record], extent: str) -> list[Record]:
    """Those whose pictures are wanted: of each encoder and protocol all, the first seed's, none."""
    if extent == "none":
        return []
    kept = [record for record in records if record["status"] == "ok"]
    if extent == "all":
        return kept
    first: dict[tuple[Any, ...], Record] = {}
    for record in kept:
        cell = (record["encoder"]["id"], *place(record))
        if cell not in first or record["seed"] <= first[cell]["seed"]:
            first[cell] = record
    return list(first.values())


def pictures_in(folder: Path) -> list[Picture]:
    """The pictures of a folder, known ones first; a damaged one is told of and left out."""
    order = {name: place for place, name in enumerate(HEADINGS)}
    paths = sorted(folder.glob("*.png"), key=lambda p: (order.get(p.stem, len(order)), p.name))
    found = [_read(path) for path in paths]
    return [picture for picture in found if picture]


def pretraining_pictures(encoder: Mapping[str, Any], results: Path) -> list[Picture]:
    """What the pretraining that made this encoder left, where its checkpoint still lies.

    Args:
        encoder: The manifest. A checkpoint that changed since is another pretraining's.
        results: The store; a relative source is looked for from here, then from beside it.
    """
    source = str(encoder.get("source", ""))
    for path in (Path(source), results.parent / source):
        wanted = [path.parent / f"{name}.png" for name in PRETRAINING]
        there = [picture for picture in wanted if source and picture.is_file()]
        if there and path.is_file() and sha256_of(path) == encoder.get("file_sha256"):
            found = [_read(picture) for picture in there]
            return [picture for picture in found if picture]
    return []


def _read(path: Path) -> Picture | None:
    try:
        return read(path)
    except (OSError, SyntaxError, ValueError) as problem:  # as Pillow says it
        print(f"moco-eval report: {path} is left out: {problem}", file=sys.stderr)
        return None


def place(record: Record) -> tuple[str, int, str, str]:
    """Under which protocol, version and recipe, and on which data, a run was."""
    protocol, dataset = record["protocol"], record["dataset"]
    return protocol["id"], protocol["version"], protocol["recipe"], dataset["id"]


def require_folder(work: Path, *, is_default: bool) -> None:
    """Check that a work folder that was asked for is there.

    Raises:
        UsageError: If it is not.
    """
    if not work.is_dir() and not is_default:
        raise UsageError(
            f"--work {work} is no folder. Give the one that the runs were given, or leave the "
            "option out to make a report without their pictures."
        )
