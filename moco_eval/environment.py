"""What a record must remember of the machine, and what ``moco-eval doctor`` says of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import moco_eval
from moco_eval.errors import UsageError, unknown

DETECTRON2_INSTALL = (
    "python -m pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'"
)
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "faster-coco-eval", "detectron2")


def versions() -> dict[str, str | None]:
    """Versions of the packages that can move a number; None where one is absent."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def describe() -> dict[str, Any]:
    """Versions, code state and hardware, as a record stores them."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "package": moco_eval.__version__,
        "git": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": versions()
        | {
            "cuda": torch.version.cuda if cuda else None,
            "cudnn": str(torch.backends.cudnn.version()) if cuda else None,  # type: ignore[no-untyped-call]
        },
        "hardware": {
            "cpu": _cpu_name(),
            "num_cpus": os.cpu_count(),
            "num_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "num_gpus": torch.cuda.device_count(),
        },
    }


def choose_device(name: str) -> str:
    """The device that ``auto``, ``cpu`` or ``cuda`` stands for: ``auto`` takes a GPU if any.

    Raises:
        UsageError: If there is no such device here.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("There is no GPU that torch can use here. Take: --device cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def doctor() -> str:
    """A few lines for people: what is installed, what is missing, and what installs it."""
    found = describe()
    hardware = found["hardware"]
    lines = [f"moco-eval {found['package']}"]
    lines += [f"  {name:17} {value or 'absent'}" for name, value in found["versions"].items()]
    lines.append(f"  {'cpu':17} {hardware['cpu']}, {hardware['num_cpus']} cores")
    lines.append(f"  {'gpu':17} {hardware['gpu'] or 'none: everything runs on the CPU'}")
    if found["versions"]["detectron2"]:
        lines.append("Detection and segmentation run on Detectron2.")
    else:
        lines += [
            "Detection and segmentation run on torchvision's parts, under protocol ids of their",
            "own (detect-tv, segment-tv). For Detectron2, with a C++ compiler at hand:",
            f"  {DETECTRON2_INSTALL}",
        ]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str | None:
    """What git says of this package's own source tree; None where it was installed from a wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    # Without locks: a look at the state must neither hinder nor outlive whoever works there.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
