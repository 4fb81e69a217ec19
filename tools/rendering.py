"""How the tools that render files of this repository end: they write them, or only compare."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from moco_eval.files import write_text

ROOT = Path(__file__).resolve().parent.parent


def write_or_check(files: Mapping[Path, str]) -> None:
    """Write each file whose text is another; with --check exit with 1 and name them instead."""
    stale = [path for path, text in files.items() if not path.exists() or _read(path) != text]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"{path.relative_to(ROOT)} is stale" for path in stale) or 0)
    for path in stale:
        write_text(path, files[path])
        print(f"written: {path.relative_to(ROOT)}")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
