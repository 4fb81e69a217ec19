"""Who is at work on a cell, so that jobs on one file system divide a suite and do no cell twice.

A claim is a file ``<folder>/<key>.<n>`` that is created exclusively, as a hard link, and never
renamed or rewritten. The one with the largest n holds. Its holder touches it every half minute; a
claim that nobody touches is stale, and is taken over by the exclusive creation of n + 1, so that of
many who try one succeeds. It is removed when the cell has its record: whoever claims a cell looks
at the records once more before it starts, and a holder looks at its claim before it records.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco_eval.errors import output_error

BEAT_EVERY_S = 30.0
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Claim:
    """One claim that was made, here or elsewhere.

    Attributes:
        folder: Of all claims.
        key: What is claimed.
        number: 1, and one more with each holder that was found dead.
        told: Host, process and token of the holder, and when it began.
    """

    folder: Path
    key: str
    number: int
    told: dict[str, Any]

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / f"{self.key}.{self.number}"

    @property
    def holder(self) -> str:
        """Who made it, for people."""
        return f"process {self.told.get('pid', '?')} on {self.told.get('host', 'another machine')}"

    def holds(self) -> bool:
        """Whether nobody has taken it over; a holder asks before it records."""
        newest = _newest(self.folder, self.key)
        return newest is not None and newest.told.get("token") == self.told["token"]

    def beat(self) -> None:
        """Say that its holder is alive."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path)

    def release(self) -> None:
        """Let others have it; the claims that it took over go first, so that none becomes valid."""
        for number in range(1, self.number + 1):
            if number < self.number or self.holds():
                (self.folder / f"{self.key}.{number}").unlink(missing_ok=True)


def acquire(folder: Path, key: str, *, timeout_s: float = TIMEOUT_S) -> Claim | None:
    """Claim ``key``, or leave it to whoever holds it.

    Args:
        folder: Of all claims; it is made.
        key: What is claimed.
        timeout_s: How long a holder may be silent before it counts as dead. One that was a process
            of this machine and is gone counts at once.

    Returns:
        The claim; None if somebody else holds it or was quicker.

    Raises:
        OutputError: If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _newest(folder, key)
        if before and not _is_stale(before.path, before.told, timeout_s):
            return None
        mine = Claim(folder, key, before.number + 1 if before else 1, _told())
        if not _create(mine.path, json.dumps(mine.told).encode()):
            return None
    except OSError as error:
        raise output_error(folder, error) from error
    # Whoever was slow may have judged a claim that is gone since, and its number been used again.
    is_current = before is None or _read(before.path) == before.told
    if is_current and mine.holds():
        return mine
    mine.path.unlink(missing_ok=True)
    return None


def holder_of(folder: Path, key: str) -> str:
    """Who holds ``key``, for people; empty where nobody does."""
    newest = _newest(folder, key)
    return newest.holder if newest else ""


def tidy(folder: Path, *, timeout_s: float = TIMEOUT_S) -> None:
    """Remove what the dead have left: claims whose cell has its record, files half made.

    Nothing is taken from anybody: one who is about to take over a claim that goes tries again, and
    a holder that is silent for so long finds that it holds no more.
    """
    for path in list(folder.glob("*")):
        told = _read(path)
        if told is not None and _is_stale(path, told, timeout_s):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody has claims there, or it is not there
        folder.rmdir()


def _told() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "pid_started": _started(os.getpid()),
        "token": secrets.token_hex(8),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _newest(folder: Path, key: str) -> Claim | None:
    """The claim of the largest number, whose file may be gone the next moment."""
    numbers = (path.name[len(key) + 1 :] for path in folder.glob(f"{key}.*"))
    for number in sorted((int(n) for n in numbers if n.isdecimal()), reverse=True):
        told = _read(folder / f"{key}.{number}")
        if told is not None:
            return Claim(folder, key, number, told)
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """What a claim says; None where it is gone, nothing where it is damaged."""
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _create(path: Path, content: bytes) -> bool:
    """Make ``path`` appear whole, unless it exists; a hard link is exclusive on NFS too."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _is_stale(path: Path, told: dict[str, Any], timeout_s: float) -> bool:
    machine = _machine()
    if machine and told.get("machine") == machine:
        # A number is given to a new process some day, which has started at another time.
        is_gone: bool = _started(told["pid"]) != told["pid_started"]
        return is_gone
    try:
        beaten_s = path.stat().st_mtime
    except FileNotFoundError:
        return False  # released this moment: the next try finds it free
    return _now_s(path.parent) - beaten_s > timeout_s


def _now_s(folder: Path) -> float:
    """The time by the file system's clock, for those of two machines differ."""
    probe = folder / f".clock-{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _machine() -> str:
    """What tells apart machines, their boots, and containers that number processes on their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process started, in ticks since the boot; empty where it is gone or a zombie."""
    try:
        # The name in brackets may hold anything; what follows it starts with the state.
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after[0] == "Z" else after[19]
