"""Tables of a TOML file, read strictly: an unknown key or a value of another type is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moco_eval.errors import UsageError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WANTED = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def read_toml(path: Path) -> dict[str, Any]:
    """What ``path`` holds.

    Raises:
        UsageError: If it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is no TOML: {error}.") from error


class Section:
    """One table, which says where it stands when something is wrong with it.

    Args:
        where: The file and the table's name, such as ``quick.toml, [[runs]] 2``.
        table: What TOML made of it.
        known: The keys that it may have.

    Raises:
        UsageError: If it has another one; the nearest is offered.
    """

    def __init__(self, where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
        self.where, self.table = where, table
        known = tuple(known)
        for key in table:
            if key not in known:
                raise UsageError(f"{where}: {unknown('key', key, known)}")

    def __contains__(self, key: str) -> bool:
        return key in self.table

    def text(self, key: str, default: str | None = None) -> str:
        """The text under ``key``; without a default it must be there."""
        value: str = self._value(key, str, default)
        return value

    def number(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """The whole number under ``key``, which is not below ``least``."""
        value: int = self._value(key, int, default)
        if value < least:
            raise self.wrong(key, f"is {value}, and should be at least {least}")
        return value

    def flag(self, key: str) -> bool:
        """Whether ``key`` is there and true."""
        value: bool = self._value(key, bool, False)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts under ``key``; none where it is left out."""
        return self._list(key, str, "texts")

    def numbers(self, key: str) -> tuple[int, ...]:
        """The list of whole numbers under ``key``; none where it is left out."""
        return self._list(key, int, "whole numbers")

    def section(self, key: str, known: Iterable[str]) -> Section:
        """The table under ``key``; an empty one where it is left out."""
        return Section(f"{self.where}, {key}", self._value(key, dict, {}), known)

    def sections(self, key: str, known: Iterable[str]) -> list[Section]:
        """The array of tables under ``key``."""
        known, tables = tuple(known), self._value(key, list, [])
        if not all(isinstance(table, dict) for table in tables):
            raise self.wrong(key, f"holds something that is no table: write [[{key}]]")
        return [
            Section(f"{self.where}, [[{key}]] {number}", table, known)
            for number, table in enumerate(tables, 1)
        ]

    def mapping(self, key: str) -> dict[str, str]:
        """A table of texts by names that are the author's own."""
        table: dict[str, Any] = self._value(key, dict, {})
        for name, value in table.items():
            if not isinstance(value, str):
                raise self.wrong(f"{key}.{name}", f"is {value!r}, and should be text")
        return table

    def wrong(self, key: str, what: str) -> UsageError:
        """An error about ``key``."""
        return UsageError(f"{self.where}: {key} {what}.")

    def _value(self, key: str, kind: type, default: Any) -> Any:
        if key not in self.table:
            if default is None:
                raise UsageError(f"{self.where}: {key} is missing.")
            return default
        value = self.table[key]
        # TOML's true is a bool, and Python's bool an int.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key, f"is {value!r}, and should be {_WANTED[kind]}")
        return value

    def _list(self, key: str, kind: type, named: str) -> tuple[Any, ...]:
        values = self._value(key, list, [])
        fits = all(isinstance(v, kind) and not (kind is int and v is True) for v in values)
        if not fits:
            raise self.wrong(key, f"is {values!r}, and should be a list of {named}")
        return tuple(values)
