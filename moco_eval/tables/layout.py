"""Which rows and columns a table has, from flags or from a TOML file.

    title = "What the digits say"
    baseline = "random init"
    cost = ["wall_s", "params_m"]

    [[rows]]
    encoder = "MoCo v2"
    label = "MoCo v2, 20 epochs"
    published = {method = "MoCo v2", architecture = "R50", pretrain_epochs = 200}

    [[columns]]
    protocol = "knn"
    data = "digits"
    metric = "top1_k1"
    title = "1-NN"
    group = "digits"

Without rows a table has all encoders, without columns all that were measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from moco_eval.errors import UsageError, unknown
from moco_eval.strict_toml import read_toml
from moco_eval.tables.costs import COSTS


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """One row.

    Attributes:
        encoder: The encoder's id in the records; empty for a row of published numbers alone.
        label: What the row is called; the encoder's id where empty.
        rule: Whether a line is drawn above it.
        published: What the columns of ``published.csv`` hold where this encoder's published
            numbers are: ``method``, ``architecture``, ``pretrain_epochs`` and so on.
    """

    encoder: str = ""
    label: str = ""
    rule: bool = False
    published: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.encoder and not self.published:
            raise UsageError("A row of a table has an encoder, or published numbers, or both.")
        if not self.encoder and not self.label:
            raise UsageError("A row of published numbers alone needs a label.")

    @property
    def title(self) -> str:
        """What the row is called."""
        return self.label or self.encoder


@dataclass(frozen=True, kw_only=True)
class ColumnLayout:
    """One column; what is left empty must follow from the records.

    Attributes:
        protocol: Its id.
        version: Of the protocol; 0 where it has one.
        recipe: Its name.
        data: The data set's id.
        metric: Any metric of the records; the primary one where empty.
        title: What stands above it.
        group: What stands above it and its neighbours; the data set's id where empty.
    """

    protocol: str
    version: int = 0
    recipe: str = ""
    data: str = ""
    metric: str = ""
    title: str = ""
    group: str = ""

    def __str__(self) -> str:
        version = f"@{self.version}" if self.version else ""
        recipe = f"/{self.recipe}" if self.recipe else ""
        rest = f":{self.data}" if self.data or self.metric else ""
        return f"{self.protocol}{version}{recipe}{rest}" + f":{self.metric}" * bool(self.metric)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table shows, and in which order.

    Attributes:
        rows: The rows; all encoders in order of their first record where empty.
        columns: The columns; where empty, one a protocol, recipe and data set, as papers order
            them, of those that the next three leave.
        protocols: The protocols that columns are made of; all where empty.
        datasets: The data sets that columns are made of; all where empty.
        metrics: The metrics that columns are made of; the primary one of each where empty.
        baseline: The encoder that deltas are taken from; empty for no deltas.
        cost: Columns of what runs cost, by their names in ``COSTS``.
        decimals: Of means, spreads and deltas.
        title: What stands above the table.
        tolerance: Half the width of a band around a published number, at least, in points.
    """

    rows: tuple[RowLayout, ...] = ()
    columns: tuple[ColumnLayout, ...] = ()
    protocols: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    baseline: str = ""
    cost: tuple[str, ...] = ()
    decimals: int = 1
    title: str = ""
    tolerance: float = 0.5

    def __post_init__(self) -> None:
        for name in self.cost:
            if name not in COSTS:
                raise unknown("cost column", name, COSTS)
        if not 0 <= self.decimals <= 6:
            raise UsageError(f"A table has 0 to 6 decimals, not {self.decimals}.")
        if self.tolerance < 0:
            raise UsageError(f"A tolerance is not negative, as {self.tolerance} is.")

    def with_encoders(self, encoders: Sequence[str]) -> Layout:
        """The same with these as rows, in this order; those that it has stay as they are."""
        known = {row.encoder: row for row in self.rows}
        rows = [known.get(name) or RowLayout(encoder=name) for name in encoders]
        return replace(self, rows=tuple(rows))


def rows_of(encoders: Sequence[str]) -> tuple[RowLayout, ...]:
    """A row for each encoder, in this order."""
    return tuple(RowLayout(encoder=encoder) for encoder in encoders)


_COLUMN = re.compile(
    r"(?P<protocol>[^@/:]+)(@(?P<version>\d+))?(/(?P<recipe>[^:]+))?"
    r"(:(?P<data>[^:]*)(:(?P<metric>[^:]+))?)?"
)


def parse_column(text: str) -> ColumnLayout:
    """A column from ``PROTOCOL[@VERSION][/RECIPE][:DATA[:METRIC]]``, as a flag has it.

    Raises:
        UsageError: If it is not of that form.
    """
    found = _COLUMN.fullmatch(text)
    if not found:
        raise UsageError(
            f"--columns {text!r} is not of the form PROTOCOL[@VERSION][/RECIPE][:DATA[:METRIC]],"
            " such as knn:digits:top1_k1."
        )
    parts = {name: part for name, part in found.groupdict().items() if part}
    return ColumnLayout(**{**parts, "version": int(parts.get("version", 0))})  # type: ignore[arg-type]


def read_layout(path: Path) -> Layout:
    """Read a layout from a TOML file.

    Raises:
        UsageError: If it cannot be read, holds a key that a layout has not (the nearest is
            offered), or a value of another type.
    """
    given = read_toml(path)
    given |= {
        **_list_of(RowLayout, given, "rows", path),
        **_list_of(ColumnLayout, given, "columns", path),
    }
    return _built(Layout, given, str(path))


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
}

_T = TypeVar("_T", RowLayout, ColumnLayout, Layout)


def _list_of(kind: type[_T], given: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The array of tables called ``name``, if there is one."""
    if name not in given:
        return {}
    entries = given[name]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: {name} is no list of tables: write [[{name}]] above each.")
    where = f"{path}, [[{name}]]"
    return {name: tuple(_built(kind, each, f"{where} {i}") for i, each in enumerate(entries, 1))}


def _built(kind: type[_T], given: dict[str, Any], where: str) -> _T:
    """A ``kind`` with the values of a TOML table, each checked against its field's type."""
    known = {each.name: str(each.type) for each in fields(kind)}
    for name in given:
        if name not in known:
            raise UsageError(f"{where}: {unknown('key', name, known)}")
    if "protocol" in known and "protocol" not in given:
        raise UsageError(f"{where}: protocol is missing.")
    try:
        return kind(**{name: _value(known[name], value) for name, value in given.items()})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except TypeError as error:
        raise UsageError(f"{where}: {error}.") from error


def _value(kind: str, value: Any) -> Any:
    """``value`` as a field of this type holds it.

    Raises:
        TypeError: If it is of another type.
    """
    if kind.startswith("Mapping"):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} should be a table of names and values")
        return {name: str(each) for name, each in value.items()}
    if kind.startswith("tuple[str"):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise TypeError(f"{value!r} should be a list of texts")
        return tuple(value)
    wanted, called = _KINDS.get(kind, ((tuple,), kind))
    # Python's bool is an int.
    if not isinstance(value, wanted) or (bool not in wanted and isinstance(value, bool)):
        raise TypeError(f"{value!r} should be {called}")
    return value
