"""Which columns a table has: those that its layout names, or all that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco_eval.errors import UsageError, unknown
from moco_eval.published_addresses import ADDRESSES
from moco_eval.tables.layout import ColumnLayout, Layout
from moco_eval.tables.trials import Place, Record, primary, require_comparable

# The order of columns: classification from the quickest probe to fine-tuning, then detection, each
# engine beside the other. Others follow by name.
PROTOCOLS = (
    *("linear-lbfgs", "linear-ridge", "linear-sgd", "linear-grid"),
    *("lowshot", "lowshot-finetune", "svm", "svm-lowshot", "knn", "finetune"),
    *("detect", "detect-tv", "segment", "segment-tv"),
    *("segment-semantic", "segment-semantic-linear"),
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One protocol with one recipe on one data set, by one metric.

    Attributes:
        place: The protocol's id, which names the engine too, its version, recipe and data set; the
            version is 0 where a layout does not say it and nothing was run.
        metric: Its name; empty where no run got as far as one.
        higher_better: Its direction.
        engines: Who trained the detectors, for protocols that have an engine.
        title: What stands above the column.
        group: What stands above it and its neighbours.
    """

    place: Place
    metric: str
    higher_better: bool
    engines: tuple[str, ...]
    title: str
    group: str


def columns_of(by_place: Mapping[Place, Sequence[Record]], layout: Layout) -> tuple[Column, ...]:
    """The columns of a layout, once their rows are known to be comparable.

    Args:
        by_place: The records of the encoders that the table shows.
        layout: What is to be shown.

    Raises:
        UsageError: If the layout names what no record has, a column of it can be several, or
            records that would share a column differ by more than they may.
    """
    places = sorted(by_place, key=_reading_order)
    if layout.columns:
        return tuple(_explicit(column, places, by_place) for column in layout.columns)
    _require_known("protocol", layout.protocols, [place.protocol for place in places])
    _require_known("data set", layout.datasets, [place.dataset for place in places])
    shown = [
        place
        for place in places
        if (not layout.protocols or place.protocol in layout.protocols)
        and (not layout.datasets or place.dataset in layout.datasets)
    ]
    if not shown:
        raise UsageError("No record is of one of these protocols on one of these data sets.")
    metrics = {place: _metrics(by_place[place]) for place in shown}
    _require_known("metric", layout.metrics, [m for place in shown for m in metrics[place]])
    return tuple(
        _column(place, metric, by_place[place], title=f"{_procedure(place, places)} {metric}")
        for place in shown
        for metric in _chosen(metrics[place], layout, by_place[place])
    )


def _chosen(known: Sequence[str], layout: Layout, records: Sequence[Record]) -> list[str]:
    if layout.metrics:
        return [metric for metric in layout.metrics if metric in known]
    return [_primary(records)]


def _reading_order(place: Place) -> tuple[Any, ...]:
    """As papers print them: classification before detection, whenever each was measured."""
    known = place.protocol in PROTOCOLS
    return (PROTOCOLS.index(place.protocol) if known else len(PROTOCOLS), place)


def _procedure(place: Place, places: Sequence[Place]) -> str:
    """The protocol; with version and recipe only where it needs them, as they are in the footer."""
    alike = [p for p in places if (p.protocol, p.dataset) == (place.protocol, place.dataset)]
    if len(alike) < 2:
        return place.protocol
    return f"{place.protocol}@{place.version} {place.recipe}"


def _explicit(
    wanted: ColumnLayout, places: Sequence[Place], by_place: Mapping[Place, Sequence[Record]]
) -> Column:
    """The one column that a layout means."""
    fits = [place for place in places if _fits(wanted, place)]
    if len(fits) > 1:
        raise UsageError(
            f"The column {wanted} can be {' and '.join(map(str, fits))}, which are never averaged:"
            " say which by its version, recipe or data."
        )
    if not fits:
        return _not_run(wanted, places)
    place = fits[0]
    if wanted.metric and any(record["status"] == "ok" for record in by_place[place]):
        _require_known(f"metric of {place}", [wanted.metric], _metrics(by_place[place]))
    metric = wanted.metric or _primary(by_place[place])
    title = wanted.title or f"{_procedure(place, places)} {metric}"
    return _column(place, metric, by_place[place], title=title, group=wanted.group)


def _not_run(wanted: ColumnLayout, places: Sequence[Place]) -> Column:
    """A column that nothing was run for yet, of names that records or published numbers have."""
    protocols = {*PROTOCOLS, *(place.protocol for place in places)}
    recipes = {place.recipe for place in places}
    datasets = {place.dataset for place in places}
    for address in ADDRESSES:
        recipes |= {*address.recipes}
        datasets |= {*address.datasets.values()}
    for kind, name, known in (
        ("protocol", wanted.protocol, protocols),
        ("recipe", wanted.recipe, recipes),
        ("data set", wanted.data, datasets),
    ):
        _require_known(kind, [name] if name else [], known, among="records or published numbers")
    place = Place(wanted.protocol, wanted.version, wanted.recipe, wanted.data)
    title = wanted.title or f"{wanted.protocol} {wanted.metric}"
    return _column(place, wanted.metric, [], title=title, group=wanted.group)


def _fits(wanted: ColumnLayout, place: Place) -> bool:
    return wanted.protocol == place.protocol and all(
        not asked or asked == found
        for asked, found in (
            (wanted.version, place.version),
            (wanted.recipe, place.recipe),
            (wanted.data, place.dataset),
        )
    )


def _column(
    place: Place, metric: str, records: Sequence[Record], *, title: str, group: str = ""
) -> Column:
    done = [record for record in records if record["status"] == "ok"]
    if done:
        require_comparable(done)
    directions = [
        record["metrics"][metric]["higher_better"] for record in done if metric in record["metrics"]
    ]
    engines = [record["protocol"]["engine"] for record in done]
    return Column(
        place=place,
        metric=metric,
        higher_better=directions[-1] if directions else True,
        engines=tuple(dict.fromkeys(engine for engine in engines if engine)),
        title=title.rstrip(),
        group=group or place.dataset,
    )


def _primary(records: Sequence[Record]) -> str:
    """The primary metric; empty where no run got as far as one."""
    return next((primary(record)[0] for record in records if record["status"] == "ok"), "")


def _metrics(records: Sequence[Record]) -> list[str]:
    done = (record for record in records if record["status"] == "ok")
    return list(dict.fromkeys(metric for record in done for metric in record["metrics"]))


def _require_known(
    kind: str, wanted: Iterable[str], known: Iterable[str], *, among: str = "these records"
) -> None:
    names = set(known)
    for name in wanted:
        if name not in names:
            raise unknown(f"{kind} in {among} called", name, names)
