"""All that a report says, before it becomes a page or a document."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco_eval import __version__
from moco_eval.report import cost, details, heat_map, leavings
from moco_eval.report.comparison import Comparison, compare
from moco_eval.report.picture import Picture, drawn
from moco_eval.report.section import Gallery, Section, section
from moco_eval.report.summary import Summary, reading_order, summarize
from moco_eval.tables.layout import Layout

Record = Mapping[str, Any]

# Of more encoders only these have pictures of their own, so that the page can be opened.
MAX_PICTURED = 40


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a report takes its content from.

    Attributes:
        results: The store.
        work: Folder of what runs left; need not exist.
        pictures: ``all``, ``first-seed`` or ``none``.
        layout: Of the tables.
        has_layout: Whether it was given: it is then the only table.
    """

    results: Path
    work: Path
    pictures: str = "first-seed"
    layout: Layout = field(default_factory=Layout)
    has_layout: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content.

    Attributes:
        facts: What stands in the header: a word and what it is.
        comparisons: The tables.
        pictures: Of all encoders together.
        sections: One an encoder.
        problems: What was left out, a sentence each.
        num_unpictured: Encoders whose pictures are left out as they are too many.
    """

    facts: tuple[tuple[str, str], ...]
    comparisons: tuple[Comparison, ...]
    pictures: tuple[Picture, ...]
    sections: tuple[Section, ...]
    problems: tuple[str, ...]
    num_unpictured: int = 0


def gather(records: Sequence[Record], problems: Sequence[str], sources: Sources) -> Report:
    """Everything that these records, and what their runs left, have to show.

    Args:
        records: Oldest first.
        problems: What could not be read.
        sources: Where pictures are looked for, and what the tables show; encoders are those of its
            rows, by default all, as they first appeared.
    """
    laid_out = [row.encoder for row in sources.layout.rows if row.encoder]
    names = list(dict.fromkeys(laid_out or [r["encoder"]["id"] for r in records]))
    records = [record for record in records if record["encoder"]["id"] in set(names)]
    summaries = summarize(records)
    folders = leavings.run_folders(sources.work) if sources.pictures != "none" else {}
    sections = []
    for number, name in enumerate(names, start=1):
        own = [record for record in records if record["encoder"]["id"] == name]
        mine = [summary for summary in summaries if summary.encoder == name]
        is_pictured = sources.pictures != "none" and number <= MAX_PICTURED
        galleries = _galleries(own, mine, folders, sources) if is_pictured else []
        sections.append(section(name, number, own, mine, galleries))
    return Report(
        facts=_facts(records, names),
        comparisons=tuple(compare(records, sources.layout, is_given=sources.has_layout)),
        pictures=tuple(_overview(summaries, names)) if sources.pictures != "none" else (),
        sections=tuple(sections),
        problems=tuple(problems),
        num_unpictured=max(0, len(names) - MAX_PICTURED) if sources.pictures != "none" else 0,
    )


def _facts(records: Sequence[Record], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    statuses = [record["status"] for record in records]
    ended = ", ".join(
        f"{statuses.count(status)} {said}"
        for status, said in (("failed", "failed"), ("preempted", "stopped before their end"))
        if status in statuses
    )
    protocols = {f"{r['protocol']['id']}@{r['protocol']['version']}" for r in records}
    datasets = {record["dataset"]["id"] for record in records}
    listed = "\n".join(sorted(record["name"] for record in records))
    return (
        ("Records", f"{len(records):,}" + (f", of which {ended}" if ended else "")),
        ("Encoders", f"{len(names):,}"),
        ("Protocols", f"{len(protocols):,}"),
        ("Data sets", ", ".join(sorted(datasets)) or "none"),
        ("Hash of the records' names", hashlib.sha256(listed.encode()).hexdigest()[:12]),
        ("Made by", f"moco-eval {__version__}"),
    )


def _overview(summaries: Sequence[Summary], names: Sequence[str]) -> list[Picture]:
    made = [
        drawn(
            lambda folder: heat_map.draw(summaries, names, folder),
            title="Encoders by tasks",
            name="heat_map",
        ),
        drawn(
            lambda folder: cost.draw(summaries, names, folder),
            title="Accuracy against cost",
            name="cost",
        ),
    ]
    return [picture for picture in made if picture]


def _galleries(
    records: Sequence[Record],
    summaries: Sequence[Summary],
    folders: Mapping[str, Path],
    sources: Sources,
) -> list[Gallery]:
    """Pictures of one encoder: of its runs, of what its records tell, of its pretraining."""
    galleries, own = [], {}
    shown = leavings.shown_runs(records, sources.pictures)
    for record in sorted(shown, key=lambda run: (*reading_order(leavings.place(run)), run["seed"])):
        if record["run_id"] in folders:
            found = leavings.pictures_in(folders[record["run_id"]])
            own[record["run_id"]] = frozenset(picture.name for picture in found)
            galleries.append(Gallery(title=_run_title(record), pictures=tuple(found)))
    told = []
    for summary in summaries:
        drawn_by_runs = [own[r["run_id"]] for r in summary.runs if r["run_id"] in own]
        without: frozenset[str] = frozenset().union(*drawn_by_runs)
        told += details.pictures_of(summary, without=without)
    galleries.append(Gallery(title="From the records of all seeds", pictures=tuple(told)))
    weights = {record["encoder"].get("tensor_sha256"): record["encoder"] for record in records}
    for encoder in weights.values():
        seen = leavings.pretraining_pictures(encoder, sources.results)
        galleries.append(Gallery(title="Pretraining", pictures=tuple(seen)))
    return galleries


def _run_title(record: Record) -> str:
    protocol = record["protocol"]
    what = f"{protocol['id']}@{protocol['version']} {protocol['recipe']}"
    return f"{what} on {record['dataset']['id']}, seed {record['seed']}"
