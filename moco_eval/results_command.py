"""``moco-eval results``: list, show, verify, index, merge, withdraw and correct records."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from moco_eval.errors import DataError, UsageError, unknown

STATUSES = ("ok", "failed", "preempted")
RECORD = "a run id, the beginning of one, or a file's name"
EPILOG = """examples:
  moco-eval results ls --protocol knn --encoder "MoCo v2*"
  moco-eval results ls --all --format csv
  moco-eval results show 01a20dcf-82d5 --diff 01a20dd0-1c4e
  moco-eval results verify
  moco-eval results merge /cluster/results ../other/results --results results
  moco-eval results retract 01a20dcf-82d5 --reason "trained on the test set"
  moco-eval results correct 01a20dcf-82d5 --encoder-name "MoCo v2" --reason "misspelt"

A record is written once. What is withdrawn or corrected stays on the disk and tables leave it out;
to withdraw a withdrawal, or a correction, brings back what it was about."""


def add_options(parser: ArgumentParser) -> None:
    """The sub-commands with their options."""
    parser.epilog = EPILOG
    commands = parser.add_subcommands(required=True, dest="action", metavar="ACTION")
    for name, action in ACTIONS.items():
        own = ArgumentParser(description=action.help, formatter_class=parser.formatter_class)
        action.options(own)
        own.add_argument("--results", type=str, default="results", help="folder of the records")
        commands.add_subcommand(name, own, help=action.help)


def run(arguments: Namespace) -> None:
    """Carry out the sub-command that was asked for."""
    ACTIONS[arguments.action].run(arguments[arguments.action])


def _ls_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--protocol", type=str, default="", help="its id; * and ? stand for others, here and below")
    add("--dataset", type=str, default="", help="the data set's id")
    add("--encoder", type=str, default="", help="the encoder's name")
    add("--status", type=str, default="", help="ok, failed or preempted")
    add("--all", action="store_true", help="those too that are superseded or retracted")
    add("--format", type=str, default="text", help="text, csv or json")


def _ls(arguments: Namespace) -> None:
    """Print one line a record, oldest first."""
    from moco_eval import store
    from moco_eval.store.listing import FORMATS, rows_of

    if arguments.format not in FORMATS:
        raise unknown("format of a list of records", arguments.format, FORMATS)
    if arguments.status and arguments.status not in STATUSES:
        raise unknown("status of a record", arguments.status, STATUSES)
    results = _folder(arguments)
    entries, problems = store.read_entries(results)
    rows = rows_of(entries)
    if not arguments.all:
        rows = [row for row in rows if row["state"] == "current" and not row["retracts"]]
    for name in ("protocol", "dataset", "encoder", "status"):
        wanted = arguments[name]
        rows = [row for row in rows if not wanted or _matches(row[name], wanted)]
    _say("ls", problems)
    if not rows:
        print(f"moco-eval results ls: no such record in {results}.", file=sys.stderr)
    print(FORMATS[arguments.format](rows), end="")


def _show_options(parser: ArgumentParser) -> None:
    parser.add_argument("record", type=str, metavar="RECORD", help=RECORD)
    parser.add_argument("--diff", type=str, default="", metavar="RECORD", help="what differs in it")


def _show(arguments: Namespace) -> None:
    """Print a record, or its difference to another."""
    from moco_eval.store.listing import difference

    results = _folder(arguments)
    one = _full(results, arguments.record)
    if not arguments.diff:
        print(json.dumps(one, indent=1, sort_keys=True, ensure_ascii=False))
        return
    other = _full(results, arguments.diff)
    print("\n".join(difference(one, other)))


def _verify_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--clear",
        action="store_true",
        help="remove what killed writers left, if it is older than ten minutes; never a record",
    )


def _verify(arguments: Namespace) -> None:
    """Read every file in full and name those that are damaged.

    Raises:
        DataError: If any is.
    """
    from moco_eval import store

    results = _folder(arguments)
    found = store.verify(results)
    for line in (*found.problems, *found.notes):
        print(line)
    for path in found.leftovers:
        print(f"{results / path}: left by a killed writer, no record.")
    if arguments.clear:
        store.clear(results, found.leftovers)
        print(f"{len(found.leftovers)} leftover files removed.")
    print(f"{found.num_whole} records are whole, {len(found.problems)} files are not.")
    if found.problems:
        raise DataError(
            f"{len(found.problems)} files in {results} are no whole records, see above. Tables "
            "leave them out. Restore them from where they were written, or move them away."
        )


def _index_options(parser: ArgumentParser) -> None:
    """It takes none of its own."""


def _index(arguments: Namespace) -> None:
    """Make the index anew."""
    from moco_eval import store

    results = _folder(arguments)
    num, problems = store.rebuild_index(results)
    _say("index", problems)
    print(f"{num} records are in {store.index.path_of(results)}.")


def _merge_options(parser: ArgumentParser) -> None:
    parser.add_argument("sources", type=str, nargs="+", metavar="SOURCE", help="a results folder")


def _merge(arguments: Namespace) -> None:
    """Copy what is not there.

    Raises:
        DataError: If records were refused; the others are there.
    """
    from moco_eval import store

    results, num_refused = Path(arguments.results), 0
    for source in map(Path, arguments.sources):
        merged = store.merge(source, results)
        _say("merge", merged.problems)
        num_refused += len(merged.problems)
        print(f"{source}: {merged.num_copied} records copied, {merged.num_known} were there.")
    if num_refused:
        raise DataError(f"{num_refused} files were refused, see above; all others are in {results}")


def _retract_options(parser: ArgumentParser) -> None:
    parser.add_argument("record", type=str, metavar="RECORD", help=RECORD)
    parser.add_argument("--reason", type=str, required=True, help="why, in a sentence")


def _retract(arguments: Namespace) -> None:
    """Withdraw a record, or a withdrawal."""
    from moco_eval import store

    results = _folder(arguments)
    record = store.resolve(results, arguments.record)
    path = store.retract(results, record["run_id"], arguments.reason)
    print(f"Withdrawn by {path}. To take that back, retract this one.")
    if record.get("supersedes"):
        print(f"{record['supersedes']}, which it superseded, counts again: retract that one too?")


def _correct_options(parser: ArgumentParser) -> None:
    _retract_options(parser)
    parser.add_argument(
        "--encoder-name", type=str, required=True, help="what tables call the encoder from now on"
    )


def _correct(arguments: Namespace) -> None:
    """Rename a record's encoder, by a record that supersedes it."""
    from moco_eval import store

    path = store.correct(
        _folder(arguments),
        arguments.record,
        reason=arguments.reason,
        encoder_name=arguments.encoder_name,
    )
    print(f"Corrected by {path}.")


class Action(NamedTuple):
    """A sub-command: what it is for, its options, and what it does."""

    help: str
    options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


ACTIONS = {
    "ls": Action("one line a record", _ls_options, _ls),
    "show": Action("one record, or its difference to another", _show_options, _show),
    "verify": Action("read every file, name the damaged ones", _verify_options, _verify),
    "index": Action("make the index anew, a cache for tables", _index_options, _index),
    "merge": Action("copy the records of other folders", _merge_options, _merge),
    "retract": Action("withdraw a record, with a reason", _retract_options, _retract),
    "correct": Action("rename a record's encoder", _correct_options, _correct),
}


def _folder(arguments: Namespace) -> Path:
    results = Path(arguments.results)
    if not results.is_dir():
        raise UsageError(f"There is no folder {results} of records. Say which it is: --results DIR")
    return results


def _say(action: str, problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"moco-eval results {action}: {problem}", file=sys.stderr)


def _matches(name: str, wanted: str) -> bool:
    return name == wanted or fnmatchcase(name, wanted)


def _full(results: Path, name: str) -> dict[str, Any]:
    from moco_eval import records, store

    head = store.resolve(results, name)
    own = {key: head[key] for key in ("path", "state", "state_reason")}
    return {**records.read(results / head["path"]), **own}
