"""What can go wrong, and the exit code that says so.

An error's text is one paragraph: what was read, what was found against what was expected, and
what to do next. A traceback appears only with ``-v``.
"""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path


class UsageError(ValueError):
    """The command, its configuration or a name in it is wrong."""

    exit_code = 2


class CheckpointError(UsageError):
    """A checkpoint cannot be read, or is not the encoder it should be."""


class DataError(UsageError):
    """A data set is missing, empty or damaged."""

    exit_code = 65


class DivergedError(UsageError):
    """A run produced numbers that are not finite, or no better than chance."""

    exit_code = 70


class RankError(UsageError):
    """Another process of the run is gone or silent."""

    exit_code = 70


class OutputError(UsageError):
    """A result cannot be written."""

    exit_code = 74


class PreemptedError(UsageError):
    """The run was asked to stop and saved its state: the same command continues it."""

    exit_code = 75


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for ``name`` that is not among ``known``, offering the nearest one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    offer = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(f"There is no {kind} '{name}'.{offer} Known: {', '.join(names)}.")


def output_error(path: Path, error: OSError) -> OutputError:
    """Say why ``path`` cannot be written, with the space that is left where that is the reason."""
    text = f"{path} cannot be written: {error.strerror or error}."
    if error.errno == errno.ENOSPC:
        parent = next(p for p in path.absolute().parents if p.exists())
        text += f" {shutil.disk_usage(parent).free / 2**20:.0f} MiB are free on that disk."
    return OutputError(f"{text} Nothing half-written was left there.")


def run(command: Callable[[], None], *, program: str, verbose: bool) -> int:
    """Run ``command`` and return the exit code that its outcome deserves.

    Returns:
        0 done, 2 usage, configuration or weights, 65 data, 70 internal error or divergence,
        74 input and output, 75 preempted, 130 interrupted.
    """
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output, such as head, has seen enough; say nothing more to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UsageError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        if verbose:
            traceback.print_exc()
        return error.exit_code if isinstance(error, UsageError) else OutputError.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted.", file=sys.stderr)
        return 130
    return 0
