"""One immutable JSON file per run and seed: what ran, on what, and what came out.

Nothing is averaged here and nothing is ever changed: a second run of the same cell is a second
file. A file's name carries the hash of its bytes, so that a damaged one is seen.

    <results>/<protocol>/<dataset>/<encoder>/<run_id>.<first 12 digits of the SHA-256>.json
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from numbers import Integral, Real
from pathlib import Path
from time import time_ns
from typing import Any, Literal

from moco_eval.errors import OutputError, output_error
from moco_eval.files import sync_folder

SCHEMA = 1

# What every run did before recipes had a field for it: records without the field mean this.
UNSAID = {"feature": "pooled", "precision": "fp32", "vote": "temperature", "subset": ""}

# What protocols were called before: ``linear`` had one procedure.
RENAMED = {"linear": "linear-lbfgs"}

# Errors among the metrics.
LOWER_BETTER = {"ece"}

_FILE_NAME = re.compile(r"[0-9a-f-]{36}\.(?P<sha12>[0-9a-f]{12})\.json")


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
            "dataset": self.dataset,
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
    return _sha256(json.dumps(identity(record) | own, sort_keys=True).encode())


def write(  # noqa: PLR0913 - a record has this many parts, and each is named at the call
    run: Run,
    results: Path,
    *,
    status: Literal["ok", "failed", "preempted"],
    outcome: Outcome | None,
    error: str | None,
    environment: Mapping[str, Any],
    time: Mapping[str, Any],
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
        time: Wall and device seconds, and what else the run cost.

    Returns:
        The record's path.

    Raises:
        OutputError: If the record cannot be written. It is then in ``~/.moco-eval/unsaved`` where
            that is possible, and on standard output in any case.
    """
    record = {
        **run.as_record(),
        "schema": SCHEMA,
        "run_id": _new_run_id(),
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "status": status,
        "error": error,
        "metrics": _metrics(outcome),
        "details": _plain(outcome.details if outcome else {}),
        "environment": _plain(environment),
        "time": _plain(time),
    }
    assert outcome is not None or status != "ok", "an ok run has measured something"
    lost = [name for name, metric in record["metrics"].items() if metric["value"] is None]
    if lost and status == "ok":
        record |= {"status": "failed", "error": f"{', '.join(lost)}: not a finite number."}
    content = _canonical(record)
    folder = results / slug(run.protocol) / slug(run.dataset["id"]) / slug(run.encoder_id)
    path = folder / f"{record['run_id']}.{_sha256(content)[:12]}.json"
    try:
        _write_once(path, content)
    except OSError as problem:
        raise _unsaved(path, content, problem) from problem
    return path


def read(path: Path) -> dict[str, Any]:
    """The record in ``path``, with the file's name under ``name``.

    Raises:
        ValueError: If it is damaged or newer than this program.
    """
    named = _FILE_NAME.fullmatch(path.name)
    if not named:
        raise ValueError("its name is not that of a record.")
    content = path.read_bytes()
    found = _sha256(content)[:12]
    if found != named["sha12"]:
        raise ValueError(f"it is damaged, its bytes hash to {found} and not as its name says.")
    record: dict[str, Any] = json.loads(content)
    if record["schema"] > SCHEMA:
        raise ValueError(
            f"it has schema {record['schema']}, this moco-eval reads up to {SCHEMA}: upgrade it."
        )
    if not record.get("retracts"):
        protocol = record["protocol"]
        protocol["id"] = RENAMED.get(protocol["id"], protocol["id"])
    return {**record, "name": path.name}


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


def _canonical(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=1)
    return text.encode() + b"\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _new_run_id() -> str:
    """A version 7 UUID, which sorts by the time it was made (RFC 9562, section 5.7, method 3)."""
    milliseconds, rest = divmod(time_ns(), 10**6)
    high = milliseconds << 16 | 7 << 12 | rest * 4096 // 10**6
    return str(uuid.UUID(int=high << 64 | 2 << 62 | secrets.randbits(62)))


def _write_once(path: Path, content: bytes) -> None:
    """Make ``path`` appear whole, on the disk, and only if it does not exist.

    A hard link is the one exclusive creation that network file systems keep too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("xb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            temporary.unlink()
    sync_folder(path.parent)
    if path.read_bytes() != content:
        path.unlink()
        raise OSError(errno.EIO, "other bytes came back than were written")


def _unsaved(path: Path, content: bytes, problem: OSError) -> OutputError:
    """Put a record that its store refuses where it is not lost, and say where that is."""
    refuge = Path.home() / ".moco-eval" / "unsaved" / path.name
    try:
        _write_once(refuge, content)
        kept = f"was kept as {refuge}"
    except OSError as second:
        kept = f"could not be kept as {refuge} either ({second.strerror})"
    print(content.decode(), end="", flush=True)
    return OutputError(
        f"{output_error(path, problem)} The record {kept} and was printed on standard output."
        f" Put that file into {path.parent} under its own name and nothing is lost."
    )
