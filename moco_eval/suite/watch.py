"""Checkpoints as a pretraining writes them, each a new encoder of the suite.

A pretraining keeps its last two checkpoints only, so each is linked into the work folder when it is
first seen, and the link goes when its cells have their records.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moco_eval.cell import Cell
from moco_eval.files import atomic_file, sha256_of, write_text
from moco_eval.suite.plan import CHECKPOINT, SuiteEncoder
from moco_eval.suite.tasks import Refused, Task, identified

SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".safetensors", ".pkl")
# A file that has not changed for so long is taken to be whole.
SETTLED_S = 2.0
_NAME = "name"
# What moco-pretrain's status.json says when it writes no more; stopped, it goes on some day.
_ENDS = ("done", "diverged", "failed")


@dataclass(frozen=True)
class _Seen:
    """A file as it was at one look."""

    inode: int
    size: int
    mtime_ns: int


class Watch:
    """A ``Feed`` of the cells of each checkpoint that appears.

    Args:
        place: A folder, or a pattern such as ``runs/*/checkpoint_*.pth.tar``.
        keep: Where checkpoints are kept until they are evaluated.
        timeout_s: After how long without a new one the watch is over.
        cells_of: The cells of an encoder.
    """

    def __init__(
        self,
        place: str,
        *,
        keep: Path,
        timeout_s: float,
        cells_of: Callable[[SuiteEncoder], list[Cell]],
    ) -> None:
        self.place, self.keep, self.timeout_s, self.cells_of = place, keep, timeout_s, cells_of
        self.seen: dict[_Seen, float] = {}
        self.taken: set[_Seen] = set()
        # What an earlier watch, ended before its time, has kept.
        self.kept = {path.parent.name: _kept(path.parent) for path in keep.glob(f"*/{_NAME}")}
        self.contents = set(self.kept)
        self.names = {encoder.name for encoder in self.kept.values()}
        self.open: Counter[str] = Counter()
        self.last_new_s = time.monotonic()
        self.is_over = False

    def poll(self) -> Sequence[Task | Refused]:
        """The cells of what is new and whole."""
        now_s = time.monotonic()
        if self.is_over:
            return ()
        # Asked before the look: what was written before the end is found by it.
        has_ended = self._has_ended()
        encoders, is_settled = list(self.kept.values()), True
        self.kept = {}
        for path in self._files():
            state = _look(path)
            if state is None or state in self.taken:
                continue
            if not _is_whole(path) and now_s - self.seen.setdefault(state, now_s) < SETTLED_S:
                is_settled = False
                continue
            self.taken.add(state)
            if encoder := self._take(path):
                encoders.append(encoder)
        if encoders or not is_settled:
            self.last_new_s = now_s
        self.is_over = is_settled and (has_ended or now_s - self.last_new_s > self.timeout_s)
        tasks = identified(cell for encoder in encoders for cell in self.cells_of(encoder))
        self.open.update(task.cell.encoder for task in tasks if isinstance(task, Task))
        return tasks

    def ended(self, task: Task) -> None:
        """Let go of a checkpoint when the last of its cells has ended."""
        spec = task.cell.encoder
        if spec in self.open:
            self.open[spec] -= 1
            if not self.open[spec]:
                del self.open[spec]
                shutil.rmtree(Path(spec).parent, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Files that look like checkpoints, oldest first."""
        if glob.has_magic(self.place):
            names = glob.glob(self.place, recursive=True)  # noqa: PTH207 - it may be absolute
            found = [Path(name) for name in names]
        else:
            found = [path for path in Path(self.place).rglob("*") if path.name.endswith(SUFFIXES)]
        found = [path for path in found if not any(part.startswith(".") for part in path.parts[1:])]
        return sorted((path for path in found if path.is_file()), key=_age)

    def _has_ended(self) -> bool:
        try:
            state = json.loads((Path(self.place) / "status.json").read_text())["state"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return state in _ENDS

    def _take(self, path: Path) -> SuiteEncoder | None:
        """The encoder that a file is, kept where it stays; None where its bytes are known."""
        try:
            content = sha256_of(path)
            if content in self.contents:
                return None
            name = self._name(path, content)
            folder = self.keep / content
            _link(path, folder / f"encoder{_suffix(path)}")
        except FileNotFoundError:
            return None  # removed by the pretraining this moment
        write_text(folder / _NAME, name)
        self.contents.add(content)
        self.names.add(name)
        return _kept(folder)

    def _name(self, path: Path, content: str) -> str:
        """``v2, epoch 9, step 4400`` of our own; else the file's name, told apart if need be."""
        try:
            told = json.loads((path.parent / "manifest.json").read_text())
            return f"{path.parents[2].name}, epoch {told['epoch']}, step {told['step']}"
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            plain = path.name == CHECKPOINT
            name = path.parent.name if plain else path.name.removesuffix(_suffix(path))
            return f"{name}, {content[:8]}" if name in self.names else name


def _look(path: Path) -> _Seen | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return _Seen(found.st_ino, found.st_size, found.st_mtime_ns)


def _is_whole(path: Path) -> bool:
    """Whether it came with its manifest, by a rename: then it is never half there."""
    return (path.parent / "manifest.json").exists()


def _kept(folder: Path) -> SuiteEncoder:
    (path,) = folder.glob("encoder.*")
    return SuiteEncoder(name=(folder / _NAME).read_text(), spec=str(path))


def _link(path: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, kept)
    except FileExistsError:
        return  # by another job that watches; it lies under the hash of its content
    except FileNotFoundError:
        raise
    except OSError:  # another file system
        with path.open("rb") as content, atomic_file(kept) as copy:
            shutil.copyfileobj(content, copy)


def _suffix(path: Path) -> str:
    return max((end for end in SUFFIXES if path.name.endswith(end)), key=len, default=path.suffix)


def _age(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, str(path)
    except FileNotFoundError:
        return 0.0, str(path)
