"""What runs cost, as columns: a mean over the runs of a cell, in one unit a column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from moco_eval.tables.trials import Place, Record, succeeded


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One kind of cost.

    Attributes:
        title: What stands above the column.
        part: The part of a record that holds it.
        field: Its name there.
        unit: What its number is divided by.
    """

    title: str
    part: str
    field: str
    unit: float = 1

    def of(self, records: Sequence[Record]) -> float | None:
        """The mean over the records that hold it; None where none does."""
        found = [record.get(self.part, {}).get(self.field) for record in records]
        values = sorted(value for value in found if value is not None)
        return fmean(values) / self.unit if values else None


COSTS = {
    "params_m": Cost(title="parameters, M", part="encoder", field="num_params", unit=1e6),
    "wall_s": Cost(title="wall, s", part="time", field="wall_s"),
    "wall_h": Cost(title="wall, h", part="time", field="wall_s", unit=3600),
    "device_s": Cost(title="device, s", part="time", field="device_s"),
    "device_h": Cost(title="device, h", part="time", field="device_s", unit=3600),
    "memory_gib": Cost(title="memory, GiB", part="time", field="peak_memory_mib", unit=1024),
    "device_memory_gib": Cost(
        title="device memory, GiB", part="time", field="peak_device_memory_mib", unit=1024
    ),
}


def three_digits(value: float) -> str:
    """``value`` to three significant digits, never with an exponent: 0.0123, 1.23, 123, 12300."""
    rounded = float(f"{value:.3g}")
    if rounded == 0:
        return "0"
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


@dataclass(frozen=True, kw_only=True)
class CostColumn:
    """What the runs of one place cost.

    Attributes:
        name: In ``COSTS``.
        place: Whose runs; None for what does not depend on it.
        title: What stands above it.
        group: What stands above it and its neighbours.
        values: One a measured row; None where it was not recorded.
    """

    name: str
    place: Place | None
    title: str
    group: str
    values: tuple[float | None, ...]


def cost_columns(
    names: Sequence[str],
    places: Mapping[Place, str],
    rows: Sequence[Mapping[Place, Sequence[Record]]],
) -> tuple[CostColumn, ...]:
    """The columns of what runs cost: what belongs to the encoder first, then place by place.

    Args:
        names: Of ``COSTS``.
        places: What notes call each place that the table shows.
        rows: The records of each row, by place.
    """
    columns = []
    for name in names:
        if COSTS[name].part == "encoder":
            values = [COSTS[name].of([r for found in row.values() for r in found]) for row in rows]
            columns.append(_column(name, None, "cost", values))
    for place, called in places.items():
        for name in names:
            if COSTS[name].part != "encoder":
                runs = [list(succeeded(row.get(place, ())).values()) for row in rows]
                values = [COSTS[name].of(own) for own in runs]
                columns.append(_column(name, place, f"cost of {called}", values))
    return tuple(columns)


def _column(
    name: str, place: Place | None, group: str, values: Sequence[float | None]
) -> CostColumn:
    return CostColumn(
        name=name, place=place, title=COSTS[name].title, group=group, values=tuple(values)
    )
