"""A recipe by its name, with the deviations a user asked for.

A protocol's procedure is code; its numbers are a recipe: one instance of a frozen dataclass in
the module's ``RECIPES``. ``--set lr=3`` makes a copy that differs, and the difference is recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jsonargparse

from moco_eval.errors import UsageError, unknown

R = TypeVar("R")


def choose(recipes: Mapping[str, R], name: str, overrides: Sequence[str]) -> R:
    """Return the recipe ``name`` with ``overrides`` such as ``["lr=3"]`` applied.

    Raises:
        UsageError: If the recipe or a key does not exist (the nearest name is offered), or a value
            is of another type than the recipe's.
    """
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    recipe = recipes[name]
    fields = as_dict(recipe)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE, found '{override}'.")
        if key not in fields:
            raise unknown(f"key of recipe '{name}' called", key, fields)
    if not overrides:
        return recipe
    return _with_overrides(recipe, overrides)


def protocol_id(protocol: str, recipe: Any) -> str:
    """What records and tables keep apart: ``linear-sgd``, of a recipe whose variant is ``sgd``.

    A recipe's class names its ``variant`` where one protocol has several procedures.
    """
    variant = getattr(recipe, "variant", "")
    return f"{protocol}-{variant}" if variant else protocol


def as_dict(recipe: Any) -> dict[str, Any]:
    """The recipe's numbers, as a record stores them."""
    return dataclasses.asdict(recipe)


def deviations(recipe: Any, published: Any) -> dict[str, Any]:
    """The fields in which ``recipe`` differs from the ``published`` one, with their values."""
    original = as_dict(published)
    return {key: value for key, value in as_dict(recipe).items() if value != original[key]}


def _with_overrides(recipe: R, overrides: Sequence[str]) -> R:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(type(recipe))
    parser.set_defaults(as_dict(recipe))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = parser.parse_args([f"--{override}" for override in overrides], env=False)
    except jsonargparse.ArgumentError as error:
        raise UsageError(f"--set {' '.join(overrides)}: {error}") from error
    keys = {override.partition("=")[0] for override in overrides}
    return dataclasses.replace(recipe, **{key: parsed[key] for key in keys})  # type: ignore[type-var]
