"""What papers say where a row and a column meet."""

from __future__ import annotations

from collections.abc import Sequence

from moco_eval.errors import UsageError
from moco_eval.published import PublishedNumber, lookup
from moco_eval.tables.layout import RowLayout
from moco_eval.tables.trials import Place

# The columns of published.csv that tell encoders apart.
ENCODER = ("method", "architecture", "pretrain_data", "pretrain_epochs")


def reported(row: RowLayout, place: Place, metric: str) -> list[PublishedNumber]:
    """The published numbers of a row's encoder under a column; several where sources differ.

    Raises:
        UsageError: If the row's ``published`` fits several encoders.
    """
    if not row.published:
        return []
    found = lookup(place.protocol, place.recipe, place.dataset, metric, row.published)
    for column in ENCODER:
        values = {number.row[column]: number for number in found if number.row[column]}
        if len(values) > 1:
            raise UsageError(
                f"The published numbers of row '{row.title}' under {place} are of several encoders:"
                f" {column} is {' and '.join(sorted(values))}. Add {column} to the row's published."
            )
    return found


def sources(place: Place, numbers: Sequence[PublishedNumber]) -> list[str]:
    """Where each number is from, and in what it is another one than ours."""
    return [", ".join([number.source, *_caveats(place, number)]) for number in numbers]


def _caveats(place: Place, number: PublishedNumber) -> list[str]:
    notes = dict.fromkeys(
        address.note
        for address in number.addresses
        if place.protocol in address.protocols and place.recipe in address.recipes and address.note
    )
    return [*([] if number.is_verified else ["unverified"]), *notes]
