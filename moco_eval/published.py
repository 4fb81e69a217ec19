"""Numbers that papers published, each with its source: for reading, never averaged with ours.

``results/published.csv`` is only read here. A number is text as it was printed, so that no digit is
lost; one that nobody has compared with its source is marked wherever it is shown.
"""

from __future__ import annotations

import csv
import difflib
import functools
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moco_eval.errors import UsageError
from moco_eval.published_addresses import Address, addresses_of

UNVERIFIED = "*"
UNVERIFIED_NOTE = (
    f"{UNVERIFIED} not yet compared with its source: known from memory or from another text."
)


@dataclass(frozen=True, kw_only=True)
class PublishedNumber:
    """One row of the file.

    Attributes:
        value: The number as it was printed.
        number: The same, to compute with.
        std: The standard deviation that is printed beside it; None for none.
        source: The paper and its table, or the repository and its page.
        is_verified: Whether somebody has compared it with its source.
        method: What the paper calls the encoder, with who ran it where that is not its author.
        architecture: Of the encoder.
        pretrain_data: What the encoder saw.
        pretrain_epochs: For how long, as text; empty where the source does not say.
        protocol: The file's key of the procedure, such as ``voc_det_c4_24k``.
        dataset: The file's name of the data set.
        metric: The file's name of the metric.
        row: All columns of the file as text.
        addresses: Where our records have the same measurement; empty for nowhere.
    """

    value: str
    number: float
    std: float | None
    source: str
    is_verified: bool
    method: str
    architecture: str
    pretrain_data: str
    pretrain_epochs: str
    protocol: str
    dataset: str
    metric: str
    row: Mapping[str, str] = field(repr=False, compare=False)
    addresses: tuple[Address, ...] = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """The number as it is shown: with its spread, and a mark if nobody has checked it."""
        spread = f" ± {self.row['std']}" if self.row["std"] else ""
        return f"{self.value}{spread}{'' if self.is_verified else UNVERIFIED}"


@functools.cache
def read() -> tuple[PublishedNumber, ...]:
    """Every published number, in the file's order."""
    return tuple(_number(row) for row in csv.DictReader(_text().splitlines()))


def columns() -> tuple[str, ...]:
    """The names of the file's columns."""
    return tuple(read()[0].row)


def matching(where: Mapping[str, str]) -> list[PublishedNumber]:
    """The numbers whose columns hold exactly what ``where`` says, such as ``{"metric": "AP"}``."""
    index = _index()
    wanted = dict(where)
    metric, protocol = wanted.pop("metric", None), wanted.pop("protocol", None)
    known = read() if None in (metric, protocol) else index.get((protocol, metric), ())
    return [each for each in known if all(each.row[k] == v for k, v in where.items())]


def lookup(
    protocol_id: str, recipe: str, dataset: str, metric: str, where: Mapping[str, str]
) -> list[PublishedNumber]:
    """What papers published under one of our protocols and recipes.

    Args:
        protocol_id: Such as ``linear-sgd``; of ``detect-tv`` the same as of ``detect``, as papers
            had Detectron2: what is then compared is two engines as well.
        recipe: Of that protocol.
        dataset: Our id, such as ``voc07+12``.
        metric: Our name, such as ``AP_mask``.
        where: What else the file's columns must hold: ``{"method": "MoCo v2"}``.

    Returns:
        The numbers in the file's order; none where nobody published any.
    """
    return [
        each
        for each in read()
        if any(
            protocol_id in address.protocols
            and recipe in address.recipes
            and address.datasets[each.dataset] == dataset
            and address.metrics[each.metric] == metric
            for address in each.addresses
        )
        and all(each.row[column] == value for column, value in where.items())
    ]


def search(
    words: Sequence[str], *, only_verified: bool = False, **filters: str
) -> list[PublishedNumber]:
    """The numbers in whose rows every word occurs, whatever its case.

    Args:
        words: Parts of a method's, protocol's, data set's or paper's name. None finds all rows.
        only_verified: Leave out what nobody has checked.
        **filters: ``protocol``, ``dataset`` or ``metric``: the file's name or ours, whole;
            ``method`` or ``source``: a part of it.

    Raises:
        UsageError: If none is found; near names are offered.
    """
    found = list(read())
    for word in words:
        found = [each for each in found if _occurs(word, _words_of(each))]
    for name, value in filters.items():
        found = [each for each in found if _passes(each, name, value)]
    if only_verified:
        found = [each for each in found if each.is_verified]
    if not found:
        raise UsageError(_nothing(words, filters, only_verified))
    return found


def _number(row: dict[str, str]) -> PublishedNumber:
    return PublishedNumber(
        value=row["value"],
        number=float(row["value"]),
        std=float(row["std"]) if row["std"] else None,
        source=row["source"],
        is_verified=row["verified"] == "yes",
        method=row["method"],
        architecture=row["architecture"],
        pretrain_data=row["pretrain_data"],
        pretrain_epochs=row["pretrain_epochs"],
        protocol=row["protocol"],
        dataset=row["dataset"],
        metric=row["metric"],
        row=row,
        addresses=tuple(addresses_of(row)),
    )


@functools.cache
def _index() -> dict[tuple[str | None, str | None], tuple[PublishedNumber, ...]]:
    index: dict[tuple[str | None, str | None], list[PublishedNumber]] = {}
    for each in read():
        index.setdefault((each.protocol, each.metric), []).append(each)
    return {place: tuple(numbers) for place, numbers in index.items()}


def _own_names(number: PublishedNumber, name: str) -> set[str]:
    """What we call the number's protocol, data set or metric."""
    if name == "protocol":
        return {each for address in number.addresses for each in address.protocols}
    if name == "dataset":
        return {address.datasets[number.dataset] for address in number.addresses}
    return {address.metrics[number.metric] for address in number.addresses}


def _passes(number: PublishedNumber, name: str, value: str) -> bool:
    if name in ("method", "source"):
        return _occurs(value, number.row[name])
    names = {number.row[name], *_own_names(number, name)}
    return value.lower() in {each.lower() for each in names}


def _occurs(part: str, text: str) -> bool:
    return part.lower() in text.lower()


def _words_of(number: PublishedNumber) -> str:
    return " ".join(number.row.values())


def _nothing(words: Sequence[str], filters: Mapping[str, str], only_verified: bool) -> str:
    """Why nothing was found, and what is called nearly so."""
    asked = [*words, *(f"--{name} {value}" for name, value in filters.items())]
    asked += ["--verified-only"] * only_verified
    text = f"No published number is found for: {', '.join(asked)}."
    missing = [word for word in words if not any(_occurs(word, _words_of(n)) for n in read())]
    near = [_near(word, _vocabulary()) for word in missing]
    for name, value in filters.items():
        if not any(_passes(number, name, value) for number in read()):
            known = {number.row[name] for number in read()}
            if name not in ("method", "source"):
                known |= {own for number in read() for own in _own_names(number, name)}
            missing.append(f"--{name} {value}")
            near.append(_near(value, known))
    for what, names in zip(missing, near, strict=True):
        offer = f"near to it: {', '.join(names)}" if names else "nothing is called nearly so"
        text += f" '{what}' is in no row; {offer}."
    if not missing:
        text += " Each is in some row, but no row has them all: leave one out."
    return text


def _vocabulary() -> set[str]:
    """Whole names of methods, protocols and so on, and the words of which they are made."""
    names = {
        number.row[name]
        for number in read()
        for name in ("method", "architecture", "protocol", "dataset", "metric", "source")
    }
    return names | {word for name in names for word in re.split(r"[\s(),;:]+", name) if word}


def _near(word: str, known: Iterable[str]) -> list[str]:
    by_lower = {name.lower(): name for name in sorted(known, reverse=True)}
    near = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    return [by_lower[name] for name in near]


def _text() -> str:
    try:
        folder = importlib.resources.files("moco_eval.results")
    except ModuleNotFoundError:
        # A source tree that is not installed: there the folder lies beside the package.
        path = Path(__file__).parents[1] / "results" / "published.csv"
        return path.read_text(encoding="utf-8")
    return folder.joinpath("published.csv").read_text(encoding="utf-8")
