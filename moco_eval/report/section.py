"""The section of one encoder: what it is, what it reached, what went wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moco_eval.canvas import shorten
from moco_eval.report.picture import Picture
from moco_eval.report.summary import Measured, Summary
from moco_eval.tables.grid import Entry, Grid, Row

Record = Mapping[str, Any]

# What of a manifest stands above the rest, and what it is called.
_FACTS = {
    "arch": "architecture",
    "format": "format",
    "source": "source",
    "num_params": "parameters",
    "tensor_sha256": "hash of its tensors",
    "file_sha256": "hash of its file",
    "licence": "licence",
    "caveat": "caveat",
}
# Of many classes, each with a choice of its own, the record holds the rest.
_MAX_CHOICES = 300
_APART = {"id", "input", "pretrain", *_FACTS}


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures that belong together, under one line that says whose they are."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """All that the page says of one encoder.

    Attributes:
        name: Of the encoder.
        anchor: Where links to the section lead.
        manifests: Of each set of weights that ran under this name, as rows of a fact and its value,
            under headings.
        results: Primary metrics with what they cost, a row a protocol.
        metrics: Every metric.
        failures: Runs that failed or were stopped, a sentence each.
        galleries: Pictures.
    """

    name: str
    anchor: str
    manifests: tuple[tuple[tuple[str, tuple[tuple[str, str], ...]], ...], ...]
    results: Grid | None
    metrics: Grid | None
    failures: tuple[str, ...]
    galleries: tuple[Gallery, ...] = field(default=())

    @property
    def num_pictures(self) -> int:
        """In all galleries."""
        return sum(len(gallery.pictures) for gallery in self.galleries)


def section(
    name: str,
    number: int,
    records: Sequence[Record],
    summaries: Sequence[Summary],
    galleries: Iterable[Gallery],
) -> Section:
    """Put together what is known of an encoder.

    Args:
        name: The encoder.
        number: Its place on the page.
        records: All of its runs, oldest first.
        summaries: Its successful ones.
        galleries: Its pictures.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    weights = {record["encoder"].get("tensor_sha256"): record["encoder"] for record in records}
    return Section(
        name=name,
        anchor=f"encoder-{number}-{slug}".rstrip("-"),
        manifests=tuple(_manifest(encoder) for encoder in weights.values()),
        results=_results(summaries) if summaries else None,
        metrics=_metrics(summaries) if summaries else None,
        failures=tuple(_failure(record) for record in records if record["status"] != "ok"),
        galleries=tuple(gallery for gallery in galleries if gallery.pictures),
    )


def _manifest(encoder: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Headings with their facts: identity, input, pretraining, its configuration, the rest."""
    identity = [(said, _say(encoder[key])) for key, said in _FACTS.items() if encoder.get(key)]
    pretrain = encoder.get("pretrain") or {}
    pretrain = pretrain if isinstance(pretrain, Mapping) else {"method": pretrain}
    config = pretrain.get("config") or {}
    told = {key: value for key, value in pretrain.items() if key != "config"}
    rest = {key: value for key, value in encoder.items() if key not in _APART}
    parts = [
        ("Identity", identity),
        ("Input", _rows(encoder.get("input") or {})),
        ("Pretraining", _rows(told)),
        ("Its configuration", _rows(config)),
        ("Loading", _rows(rest)),
    ]
    return tuple((heading, tuple(rows)) for heading, rows in parts if rows)


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (str(name).replace("_", " "), _say(value))
        for name, value in facts.items()
        if value is not None and value not in ("", [], {})
    ]


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_say, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_say(each)}" for name, each in value.items())
    return str(value)


def _results(summaries: Sequence[Summary]) -> Grid:
    """A row a protocol: the primary metric and what a run cost, means over seeds."""
    kinds = [
        (kind, column, form)
        for kind, column, form in (
            ("wall_s", "wall time (s)", "{:,.1f}"),
            ("device_s", "device time (s)", "{:,.1f}"),
            ("peak_memory_mib", "memory (MiB)", "{:,.0f}"),
            ("peak_device_memory_mib", "device memory (MiB)", "{:,.0f}"),
        )
        if any(kind in each.costs for each in summaries)
    ]
    rows = []
    for each in summaries:
        costs = [
            Entry(text=form.format(each.costs[kind]), value=each.costs[kind])
            if kind in each.costs
            else Entry(text="–")
            for kind, _, form in kinds
        ]
        seeds = Entry(text=str(len(each.runs)), value=len(each.runs))
        score = _score(each.primary, marks="†" * bool(each.deviations))
        label = f"{each.label}: {each.primary.name}"
        rows.append(Row(label=label, entries=(score, seeds, *costs)))
    damaged = [
        f"{each.label}: {number:,} damaged images were left out, by the policy"
        f" {each.runs[0]['dataset'].get('damaged_policy')!r}."
        for each in summaries
        if (number := each.runs[0]["dataset"].get("num_damaged"))
    ]
    notes = [
        f"† {each.label} departs from its recipe: "
        + ", ".join(f"{name}={_say(value)}" for name, value in sorted(each.deviations.items()))
        + "."
        for each in summaries
        if each.deviations
    ]
    return Grid(
        corner="protocol and metric",
        columns=("mean ± s.d. (%)", "seeds", *(column for _, column, _ in kinds)),
        rows=tuple(rows),
        notes=(*notes, *damaged),
        higher_better=(True, True, *(False for _ in kinds)),
    )


def _metrics(summaries: Sequence[Summary]) -> Grid:
    """A row a protocol and metric."""
    rows = [
        Row(
            label=f"{each.label}: {metric.name}"
            + ("" if metric.higher_better else " (lower is better)"),
            entries=(
                _score(metric),
                Entry(text=str(len(each.runs)), value=len(each.runs)),
            ),
            has_rule=place == 0,
        )
        for each in summaries
        for place, metric in enumerate(each.metrics)
    ]
    return Grid(
        corner="protocol and metric",
        columns=("mean ± s.d. (%)", "seeds"),
        rows=tuple(rows),
        notes=tuple(note for note in map(_choice, summaries) if note),
        higher_better=(True, True),
    )


def _choice(summary: Summary) -> str:
    """How hyper-parameters and weights were chosen, and what came out at each seed."""
    told = [run.get("selection") or {} for run in summary.runs]
    chosen = list(dict.fromkeys(_say(each["chosen"]) for each in told if "chosen" in each))
    if not chosen:
        return ""
    return f"{summary.label}: {told[0]['rule']}: {shorten('; '.join(chosen), _MAX_CHOICES)}."


def _score(metric: Measured, *, marks: str = "") -> Entry:
    spread = "" if metric.sd is None else f" ± {metric.sd:.1f}"
    return Entry(text=f"{metric.mean:.1f}{spread}", value=metric.mean, marks=marks)


def _failure(record: Record) -> str:
    protocol = record["protocol"]
    what = f"{protocol['id']}@{protocol['version']} {protocol['recipe']}"
    ended = "failed" if record["status"] == "failed" else "was stopped before its end"
    error = record.get("error") or "it left no reason."
    when = record["created"]
    where = record["dataset"]["id"]
    return f"{what} on {where}, seed {record['seed']}, {ended} ({when}): {error}"
