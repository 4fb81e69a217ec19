"""Looking after a store: is every record whole, take in another store's, withdraw, correct.

No file is ever changed or removed, but what a killed writer left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco_eval import record_file, records
from moco_eval.errors import DataError, UsageError, output_error
from moco_eval.store.folder import files, leftovers
from moco_eval.store.reading import Record, read_entries

# A file's own name, or enough of it to tell it from others.
MIN_PREFIX = 4


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What looking at every file found.

    Attributes:
        num_whole: How many are whole, withdrawals included.
        problems: A sentence for each that is not.
        leftovers: Paths of files that killed writers left.
        notes: A sentence for each record that names another which is not here.
    """

    num_whole: int
    problems: tuple[str, ...]
    leftovers: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What taking in another store came to.

    Attributes:
        num_copied: How many records were not there before.
        num_known: How many were.
        problems: A sentence for each that was refused.
    """

    num_copied: int
    num_known: int
    problems: tuple[str, ...]


def verify(results: Path) -> Verdict:
    """Read every file in full, without the index."""
    whole, problems = _read_each(results)
    known = {record["run_id"] for _, record in whole}
    notes = [
        f"{path} {verb} {record[name]}, which is not here."
        for path, record in whole
        for name, verb in (("supersedes", "supersedes"), ("retracts", "withdraws"))
        if record.get(name) and record[name] not in known
    ]
    return Verdict(
        num_whole=len(whole),
        problems=tuple(problems),
        leftovers=tuple(leftovers(results)),
        notes=tuple(notes),
    )


def clear(results: Path, paths: Iterable[str]) -> None:
    """Remove files that killed writers left.

    Raises:
        OutputError: If one cannot be removed.
    """
    for path in paths:
        try:
            (results / path).unlink(missing_ok=True)
        except OSError as error:
            raise output_error(results / path, error) from error


def merge(source: Path, results: Path) -> Merged:
    """Copy the records that ``results`` lacks, each to where it lies in ``source``.

    A record's name holds its hash, so what is there under the same name is the same record; where
    that one is damaged, it is told of and left alone.

    Raises:
        UsageError: If ``source`` is no folder.
        OutputError: If a record cannot be written; those before it are there.
    """
    if not source.is_dir():
        raise UsageError(f"There is no folder {source} to take records from.")
    whole, problems = _read_each(source)
    there = {file.name: file.path for file in files(results)}
    num_copied = num_known = 0
    for path, record in whole:
        if record["name"] not in there:
            target = results / path
            try:
                record_file.write_once(target, (source / path).read_bytes())
                num_copied += 1
                continue
            except FileExistsError:
                there[record["name"]] = path  # by another process, meanwhile
            except OSError as error:
                raise output_error(target, error) from error
        num_known += 1
        try:
            records.read(results / there[record["name"]])
        except (OSError, ValueError) as error:
            problems.append(f"{results / there[record['name']]} is there already, but {error}")
    return Merged(num_copied=num_copied, num_known=num_known, problems=tuple(problems))


def resolve(results: Path, name: str) -> Record:
    """The head of the record that ``name`` stands for, withdrawals and history included.

    Args:
        results: The store.
        name: A run id, the beginning of one, a file's name or its path.

    Raises:
        DataError: If it is damaged.
        UsageError: If there is none, or more than one.
    """
    known, problems = read_entries(results)
    wanted = name.rpartition("/")[2]
    found = [entry for entry in known if wanted in (entry["run_id"], entry["name"])]
    if not found and len(wanted) >= MIN_PREFIX:
        found = [entry for entry in known if entry["name"].startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if damaged := [problem for problem in problems if wanted in problem]:
        raise DataError(damaged[0])
    ls = f"List them: moco-eval results ls --all --results {results}"
    if not found:
        raise UsageError(f"There is no record '{name}' among the {len(known)} of {results}. {ls}")
    some = ", ".join(entry["run_id"] for entry in found[:3])
    raise UsageError(f"'{name}' begins {len(found)} records, such as {some}. Write more of it.")


def retract(results: Path, name: str, reason: str) -> Path:
    """Withdraw a record: tables leave it out from now on, and the file stays.

    A withdrawal can be withdrawn too, and then the record counts again.

    Returns:
        The withdrawal's path.

    Raises:
        UsageError: If there is no such record, it does not count anyway, or no reason is given.
        OutputError: If the withdrawal cannot be written.
    """
    entry = _that_counts(results, name, reason)
    withdrawal = {
        **record_file.stamp(records.SCHEMA),
        "retracts": entry["run_id"],
        "reason": reason.strip(),
    }
    return record_file.save(withdrawal, (results / entry["path"]).parent)


def correct(results: Path, name: str, *, reason: str, encoder_name: str) -> Path:
    """Give a record's encoder another display name, by a new record that supersedes it.

    Nothing that was measured can be corrected: run it again.

    Returns:
        The new record's path.

    Raises:
        UsageError: If there is no such record, it does not count, or nothing would change.
        OutputError: If the record cannot be written.
    """
    entry = _that_counts(results, name, reason)
    if entry.get("retracts"):
        raise UsageError(f"{entry['run_id']} is a withdrawal, it has no encoder's name.")
    if not encoder_name.strip():
        raise UsageError("--encoder-name is empty: say what tables are to call the encoder.")
    if entry["encoder"]["id"] == encoder_name:
        raise UsageError(f"{entry['run_id']} is of an encoder called '{encoder_name}' already.")
    corrected: dict[str, Any] = {
        **records.read(results / entry["path"]),
        **record_file.stamp(records.SCHEMA),
        "supersedes": entry["run_id"],
        "reason": reason.strip(),
    }
    corrected["encoder"] = {**corrected["encoder"], "id": encoder_name}
    del corrected["name"]
    return record_file.save(corrected, records.folder_of(corrected, results))


def _that_counts(results: Path, name: str, reason: str) -> Record:
    if not reason.strip():
        raise UsageError("--reason is empty: say why, whoever reads the record will want to know.")
    entry = resolve(results, name)
    if entry["state"] != "current":
        raise UsageError(f"{entry['run_id']} does not count any more: it is {entry['state']}.")
    return entry


def _read_each(results: Path) -> tuple[list[tuple[str, Record]], list[str]]:
    whole, problems = [], []
    for file in files(results):
        try:
            record = records.read(results / file.path)
        except (OSError, ValueError) as error:
            problems.append(f"{results / file.path}: {error}")
        else:
            # Details are read to be checked, not to be kept.
            whole.append((file.path, {**record, "details": {}}))
    return whole, problems
