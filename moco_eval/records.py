"""One immutable JSON file per run and seed: what ran, on what, and what came out.

Nothing is averaged here and nothing is ever changed: a second run of the same cell is a second
file, a correction another one that names what it supersedes. See ``record_file`` for the file.

    <results>/<protocol>/<dataset>/<encoder>/<run_id>.<first 12 digits of the SHA-256>.json
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from moco_eval import record_file

# What a newer program writes is refused; what an older one wrote is read for ever.
SCHEMA = 2

# What every run did before recipes had a field for it: records without the field mean this.
UNSAID = {"feature": "pooled", "precision": "fp32", "vote": "temperature", "subset": ""}

# Evaluation never replaces a damaged image: it stops there, and there is no record.
DAMAGED = {"num_damaged": 0, "damaged_policy": "fail"}

# What a run may cost; what an older record does not say is null.
COSTS = (
    *("wall_s", "device_s", "peak_memory_mib", "peak_device_memory_mib"),
    *("num_processes", "num_resumes"),
)

# What protocols were called before: ``linear`` had one procedure.
RENAMED = {"linear": "linear-lbfgs"}

# Errors among the metrics.
LOWER_BETTER = {"ece"}

_PARTS = (
    *("run_id", "created", "status", "seed", "config", "metrics", "details", "time"),
    *("encoder.id", "encoder.tensor_sha256", "dataset.id", "dataset.fingerprint"),
    *("protocol.id", "protocol.version", "protocol.recipe", "protocol.deviations"),
)
_PARTS_OF_WITHDRAWAL = ("run_id", "created", "retracts", "reason")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a protocol's ``evaluate`` returns.

    Attributes:
        metrics: Percentages by the field's names; the first is the primary one. Higher is better,
            but for ``LOWER_BETTER``.
        num_test: How many test images (or scenes) they were measured on.
        details: How hyper-parameters were selected, single draws, curves: as JSON holds them.
        drawn: Arrays that pictures are made of, by the names in ``pictures.py``; no part of the
            record.
    """

    metrics: dict[str, float]
    num_test: int
    details: dict[str, Any]
    drawn: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The identity of one execution.

    Attributes:
        encoder_id: The name that tables show.
        encoder: The encoder's manifest, with ``tensor_sha256`` and ``num_params``.
        protocol: The procedure's id, such as ``linear`` or ``detect-tv``.
        version: The procedure's version.
        recipe: The name of its numbers.
        config: Its numbers, all of them, defaults included.
        deviations: Those of them that differ from the recipe as published.
        dataset: ``id``, ``num_train``, ``num_test`` and ``fingerprint``.
        seed: What every random draw is keyed by.
        engine: Who trained the detector, for protocols that have one.
    """

    encoder_id: str
    encoder: dict[str, Any]
    protocol: str
    version: int
    recipe: str
    config: dict[str, Any]
    deviations: dict[str, Any]
    dataset: dict[str, Any]
    seed: int
    engine: str | None = None

    def key(self) -> str:
        """A hash of all that makes two runs the same cell and the same trial of it."""
        return key_of(self.as_record())

    def as_record(self) -> dict[str, Any]:
        """The part of a record that is known before the run."""
        record = {
            "encoder": {**self.encoder, "id": self.encoder_id},
            "protocol": {
                "id": self.protocol,
                "version": self.version,
                "recipe": self.recipe,
                "deviations": self.deviations,
                "engine": self.engine,
            },
            "config": self.config,
            "dataset": {**DAMAGED, **self.dataset},
            "seed": self.seed,
        }
        return {name: _plain(part) for name, part in record.items()}


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """What records must share to be trials of one cell, by field: all but the seed."""
    return {
        "encoder.tensor_sha256": record["encoder"]["tensor_sha256"],
        "protocol.id": record["protocol"]["id"],
        "protocol.version": record["protocol"]["version"],
        "protocol.recipe": record["protocol"]["recipe"],
        "config": config_of(record),
        "dataset.id": record["dataset"]["id"],
        "dataset.fingerprint": record["dataset"]["fingerprint"],
    }


def config_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's numbers, with those that an older record does not name."""
    config: dict[str, Any] = UNSAID | record["config"]
    return config


def key_of(record: Mapping[str, Any]) -> str:
    """The ``Run.key`` of the run that left this record; another display name is another row."""
    own = {"encoder.id": record["encoder"]["id"], "seed": record["seed"]}
    text = json.dumps(identity(record) | own, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write(  # noqa: PLR0913 - a record has this many parts, and each is named at the call
    run: Run,
    results: Path,
    *,
    status: Literal["ok", "failed", "preempted"],
    outcome: Outcome | None,
    error: str | None,
    environment: Mapping[str, Any],
    time: Mapping[str, Any],
    supersedes: str | None = None,
) -> Path:
    """Write one record and read it back.

    A metric that is not finite is stored as null, and makes an ``ok`` run a failed one.

    Args:
        run: What was executed.
        results: The store's folder; what is missing of the path is made.
        status: How it ended.
        outcome: What it measured; None where it did not get that far.
        error: Why it failed or stopped, in a sentence.
        environment: Versions and hardware.
        time: Wall and device seconds, and what else the run cost: see ``COSTS``.
        supersedes: The run id of the record that this one repeats. A run that is not ``ok`` takes
            no other's place.

    Returns:
        The record's path.

    Raises:
        OutputError: If the record cannot be written. It is then in ``~/.moco-eval/unsaved`` where
            that is possible, and on standard output in any case.
    """
    assert outcome is not None or status != "ok", "an ok run has measured something"
    metrics = _metrics(outcome)
    lost = [name for name, metric in metrics.items() if metric["value"] is None]
    if lost and status == "ok":
        status, error = "failed", f"{', '.join(lost)}: not a finite number."
    details = _plain(outcome.details if outcome else {})
    record = {
        **run.as_record(),
        **record_file.stamp(SCHEMA),
        "supersedes": supersedes if status == "ok" else None,
        "reason": "run again" if supersedes and status == "ok" else "",
        "status": status,
        "error": error,
        "metrics": metrics,
        "selection": selection_of(details) if outcome else {},
        "details": details,
        "environment": _plain(environment),
        "time": dict.fromkeys(COSTS) | _plain(time),
    }
    return record_file.save(record, folder_of(record, results))


def folder_of(record: Mapping[str, Any], results: Path) -> Path:
    """Where a record lies in a store."""
    parts = (record["protocol"], record["dataset"], record["encoder"])
    return results.joinpath(*(slug(part["id"]) for part in parts))


def read(path: Path) -> dict[str, Any]:
    """The record in ``path``, with the file's name under ``name`` and what older ones lack.

    A withdrawal, which has ``retracts``, is read as it is.

    Raises:
        ValueError: If it is damaged, no record, or newer than this program.
    """
    record = record_file.load(path)
    if not isinstance(record["schema"], int) or record["schema"] > SCHEMA:
        raise ValueError(
            f"it has schema {record['schema']}, this moco-eval reads up to {SCHEMA}: upgrade it."
        )
    is_withdrawal = bool(record.get("retracts"))
    _require(record, _PARTS_OF_WITHDRAWAL if is_withdrawal else _PARTS)
    if not path.name.startswith(f"{record['run_id']}."):
        raise ValueError(f"its name is that of another run than {record['run_id']}, which it is.")
    return {**(record if is_withdrawal else _filled_in(record)), "name": path.name}


def selection_of(details: Mapping[str, Any]) -> dict[str, Any]:
    """How hyper-parameters and weights were chosen: ``rule`` in a sentence, and what came out.

    Curves of what was tried stay in ``details``.
    """
    told: Mapping[str, Any] = details.get("selection") or {}
    if "lr" in told:  # of a dense protocol
        told = {"what": "lr", "chosen": told["lr"], "by": "primary metric", "on": told["judged_on"]}
    if "chosen" not in told:
        return {"rule": "nothing is chosen: all numbers are the recipe's"}
    chosen = {name: told[name] for name in ("what", "chosen", "by", "on") if name in told}
    return {"rule": "{what}, by {by}, on {on}".format(**chosen), **chosen}


def _require(record: Mapping[str, Any], parts: Iterable[str]) -> None:
    missing = []
    for part in parts:
        inner: Any = record
        for name in part.split("."):
            inner = inner.get(name, ...) if isinstance(inner, Mapping) else ...
        if inner is ...:
            missing.append(part)
    if missing:
        raise ValueError(f"it is whole, but lacks what a record has: {', '.join(missing)}.")


def _filled_in(record: dict[str, Any]) -> dict[str, Any]:
    """A record of any schema as one of the newest."""
    protocol = record["protocol"]
    selection = selection_of(record["details"]) if record["metrics"] else {}
    return {
        "supersedes": None,
        "reason": "",
        "selection": selection,
        **record,
        "protocol": {**protocol, "id": RENAMED.get(protocol["id"], protocol["id"])},
        "dataset": {**DAMAGED, **record["dataset"]},
        "time": dict.fromkeys(COSTS) | record["time"],
    }


def slug(name: str) -> str:
    """``name`` as one path component: only ``A-Z a-z 0-9 . _ -``, never hidden, no option."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:100] or "unnamed"


def _metrics(outcome: Outcome | None) -> dict[str, dict[str, Any]]:
    if outcome is None:
        return {}
    primary = next(iter(outcome.metrics), None)
    return {
        name: {
            "value": _plain(float(value)),
            "primary": name == primary,
            "n": outcome.num_test,
            "unit": "%",
            "higher_better": name not in LOWER_BETTER,
        }
        for name, value in outcome.metrics.items()
    }


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numbers that are not finite become null, the unknown text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value)
