"""Encoders x protocols x seeds: run what is missing, skip what is done, record what fails."""

from __future__ import annotations

import functools
import importlib
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from moco_eval import engines, environment, recipes, records
from moco_eval.data import catalog
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import DivergedError, UsageError, unknown

IMAGE_PROTOCOLS = ("linear", "knn", "lowshot")
DENSE_PROTOCOLS = ("detect", "segment")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: what a command line of ``moco-eval`` says.

    Attributes:
        protocol: A protocol module's name, such as ``linear``.
        encoder: What ``load_encoder`` takes.
        data: What the catalogue opens.
        name: What tables call the encoder; its specification where empty.
        arch: The architecture, for files that do not say.
        recipe: The recipe's name; the protocol's default where empty.
        overrides: Deviations from it, as ``key=value``.
        seed: What every random draw is keyed by.
        engine: Who trains the detector; classification has none.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
    """

    protocol: str
    encoder: str
    data: str
    name: str = ""
    arch: str | None = None
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    seed: int = 0
    engine: str = "auto"
    device: str = "auto"


def protocol_module(name: str) -> ModuleType:
    """The module that is the protocol: it has VERSION, Recipe, RECIPES and evaluate."""
    known = (*IMAGE_PROTOCOLS, *DENSE_PROTOCOLS)
    if name not in known:
        raise unknown("protocol", name, known)
    return importlib.import_module(f"moco_eval.{name}")


def run_cell(
    cell: Cell, *, results: Path, work_dir: Path, rerun: bool = False
) -> tuple[dict[str, Any], bool]:
    """Run one cell and record it, unless the store already holds it.

    Args:
        cell: What to run.
        results: The store.
        work_dir: Where the run leaves what is no result: predictions, curves.
        rerun: Run and record it again even so.

    Returns:
        The record, and whether it was run now.

    Raises:
        UsageError: If the cell cannot be run as asked; nothing is recorded.
        DivergedError: If it ran and failed; that is recorded.
    """
    module = protocol_module(cell.protocol)
    recipe_name = cell.recipe or module.DEFAULT_RECIPE
    recipe = recipes.choose(module.RECIPES, recipe_name, cell.overrides)
    encoder = _encoder(cell.encoder, cell.arch, environment.choose_device(cell.device))
    dense = cell.protocol in DENSE_PROTOCOLS
    data = (_scenes if dense else _images)(cell.data)
    engine = engines.choose(cell.engine) if dense else None
    run = records.Run(
        encoder_id=cell.name or cell.encoder,
        encoder=_describe_encoder(encoder),
        protocol=cell.protocol + (engines.SUFFIX[engine] if engine else ""),
        version=module.VERSION,
        recipe=recipe_name,
        config=recipes.as_dict(recipe),
        deviations=recipes.deviations(recipe, module.RECIPES[recipe_name]),
        dataset={
            "id": data.id,
            "num_train": len(data.train),
            "num_test": len(data.test),
            "num_classes": len(data.classes),
            "fingerprint": data.fingerprint,
        },
        seed=cell.seed,
        engine=engine,
    )
    found = None if rerun else records.find(results, run.key())
    if found:
        return found, False

    begun_s = time.monotonic()
    keywords = {"engine": engine} if engine else {}
    outcome, failure = None, None
    try:
        outcome = module.evaluate(
            encoder, recipe, data, seed=cell.seed, work_dir=work_dir, **keywords
        )
    except (DivergedError, RuntimeError) as error:
        failure = error
    path = records.write(
        run,
        results,
        status="failed" if failure else "ok",
        outcome=outcome,
        error=str(failure) if failure else None,
        environment=environment.describe(),
        time={
            "wall_s": round(time.monotonic() - begun_s, 3),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
    )
    if isinstance(failure, UsageError):
        raise failure
    if failure:
        raise DivergedError(f"{cell.protocol} of {run.encoder_id} failed: {failure}") from failure
    return records.read(path), True


def run_all(cells: list[Cell], *, results: Path, work_dir: Path) -> list[dict[str, Any]]:
    """Run the cells one after the other; a failed one is recorded, said, and the rest goes on.

    Returns:
        The records of those that succeeded.
    """
    done = []
    for number, cell in enumerate(cells, 1):
        label = f"[{number}/{len(cells)}] {cell.protocol} {cell.name or cell.encoder}"
        folder = work_dir / work_folder(cell)
        try:
            record, is_new = run_cell(cell, results=results, work_dir=folder)
        except DivergedError as error:
            print(f"{label} seed {cell.seed}: failed. {error}", flush=True)
            continue
        took = f"{record['time']['wall_s']:.1f} s" if is_new else "already recorded"
        print(f"{label} seed {cell.seed}: {summary(record)} ({took})", flush=True)
        done.append(record)
    return done


def work_folder(cell: Cell) -> Path:
    """Where a run leaves what is no result, below the work folder."""
    parts = (cell.protocol, cell.data, cell.name or cell.encoder, f"seed{cell.seed}")
    return Path(*(records.slug(part) for part in parts))


def summary(record: dict[str, Any]) -> str:
    """The metrics of a record in one line, the primary first: ``top1 97.2, top5 99.9``."""
    metrics = sorted(record["metrics"].items(), key=lambda item: not item[1]["primary"])
    return ", ".join(f"{name} {metric['value']:.1f}" for name, metric in metrics)


def _describe_encoder(encoder: Encoder) -> dict[str, Any]:
    manifest = asdict(encoder.manifest)
    return manifest | {
        # A MoCo ResNet-50 drops 330 names, and the file's hash says which.
        "dropped": len(manifest["dropped"]),
        "tensor_sha256": encoder.tensor_sha256(),
        "num_params": sum(p.numel() for p in encoder.network.parameters()),
    }


@functools.cache
def _encoder(spec: str, arch: str | None, device: str) -> Encoder:
    encoder = load_encoder(spec, arch=arch)
    encoder.network.to(device)
    return encoder


# The cells of a suite share encoders and data: each is opened once.
_images = functools.cache(catalog.open_images)
_scenes = functools.cache(catalog.open_scenes)
