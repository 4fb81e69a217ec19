"""One cell of a comparison, and everything that it names opened: encoder, recipe, data, engine."""

from __future__ import annotations

import functools
import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from moco_eval import distributed, engines, environment, recipes, records
from moco_eval.data import catalog
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.hints import NO_HINTS, Hints
from moco_eval.encoders.load import load_encoder
from moco_eval.engines.recipe import Recipe as DetectorRecipe
from moco_eval.engines.recipe import Training
from moco_eval.engines.schedule import rescale
from moco_eval.errors import UsageError, unknown
from moco_eval.resources import PLAIN, Resources

IMAGE_PROTOCOLS = ("linear", "knn", "lowshot", "svm", "finetune")
DENSE_PROTOCOLS = ("detect", "segment")

# Encoders that are kept open: the cells of a suite go through them in turn.
NUM_OPEN = 4


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: what a command line of ``moco-eval`` says.

    Attributes:
        protocol: A protocol module's name, such as ``linear``.
        encoder: What ``load_encoder`` takes.
        data: What the catalogue opens.
        name: What tables call the encoder; its specification where empty.
        hints: What the encoder's file does not say itself.
        recipe: The recipe's name; the protocol's default where empty.
        overrides: Deviations from it, as ``key=value``.
        seed: What every random draw is keyed by.
        engine: Who trains the detector; what has none ignores it.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        resources: What else it may use of the machine.
    """

    protocol: str
    encoder: str
    data: str
    name: str = ""
    hints: Hints = NO_HINTS
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    seed: int = 0
    engine: str = "auto"
    device: str = "auto"
    resources: Resources = PLAIN


@dataclass(frozen=True)
class Prepared:
    """A cell with everything opened that it names.

    Attributes:
        module: The protocol.
        recipe: With the cell's deviations, for the devices at hand.
        encoder: On its device.
        data: What the protocol takes: images, scenes or label maps.
        run: The identity of the execution.
    """

    module: ModuleType
    recipe: Any
    encoder: Encoder
    data: Any
    run: records.Run


def protocol_module(name: str) -> ModuleType:
    """The module that is the protocol: it has VERSION, Recipe, RECIPES and evaluate."""
    known = (*IMAGE_PROTOCOLS, *DENSE_PROTOCOLS)
    if name not in known:
        raise unknown("protocol", name, known)
    return importlib.import_module(f"moco_eval.{name}")


def prepare(cell: Cell) -> Prepared:
    """Open what the cell names.

    Raises:
        UsageError: Or one of its subclasses, if something is not there or does not fit the rest.
    """
    return _prepare(cell, environment.choose_device(cell.device))


def identify(cell: Cell) -> records.Run:
    """The identity of the execution, found without a GPU: by it a suite knows what is done.

    Raises:
        UsageError: As ``prepare`` does.
    """
    return _prepare(cell, "cpu").run


def recipe_of(cell: Cell) -> tuple[str, Any]:
    """The recipe's name and the recipe, with the cell's deviations.

    Raises:
        UsageError: If there is no such protocol, recipe or key.
    """
    module = protocol_module(cell.protocol)
    name = cell.recipe or module.DEFAULT_RECIPE
    return name, _choose_recipe(cell, module.RECIPES, name)


def open_data(cell: Cell, recipe: Any) -> Any:
    """What the protocol takes: images, scenes or label maps.

    Raises:
        DataError: If it is not there.
    """
    if isinstance(recipe, DetectorRecipe):
        return _scenes(cell.data)
    return _label_maps(cell.data) if isinstance(recipe, Training) else _images(cell.data)


def _prepare(cell: Cell, device: str) -> Prepared:
    module = protocol_module(cell.protocol)
    recipe_name, recipe = recipe_of(cell)
    encoder, described = _encoder(cell.encoder, cell.hints, device, _stamp(cell.encoder))
    data = open_data(cell, recipe)
    engine = None
    if isinstance(recipe, DetectorRecipe):
        engine = engines.choose(cell.engine, encoder)
        if recipe.opts and engine != "detectron2":
            raise UsageError(
                f"opts are entries of Detectron2's configuration, and engine {engine} has none. "
                "Leave them out, or take --engine detectron2."
            )
    run = records.Run(
        encoder_id=cell.name or cell.encoder,
        encoder=described,
        protocol=recipes.protocol_id(cell.protocol, recipe)
        + (engines.SUFFIX[engine] if engine else ""),
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
    return Prepared(module, recipe, encoder, data, run)


def num_devices(cell: Cell) -> int:
    """How many processes the run has, or will have when it is launched."""
    return max(distributed.world_size(), cell.resources.num_processes)


def _choose_recipe(cell: Cell, known: dict[str, Any], name: str) -> Any:
    """The recipe with the cell's overrides, which say what the devices at hand leave."""
    if not isinstance(known.get(name), Training):
        return recipes.choose(known, name, cell.overrides)
    # What numbers are for how many devices is said before they are rescaled; the rest stands.
    first = [each for each in cell.overrides if each.startswith("reference_world_size=")]
    scaled = rescale(recipes.choose(known, name, first), num_devices(cell))
    return recipes.choose({name: scaled}, name, cell.overrides)


def _describe_encoder(encoder: Encoder) -> dict[str, Any]:
    manifest = asdict(encoder.manifest)
    return manifest | {
        # A MoCo ResNet-50 drops 330 names, and the file's hash says which.
        "loaded": len(manifest["loaded"]),
        "dropped": len(manifest["dropped"]),
        "tensor_sha256": encoder.tensor_sha256(),
        "num_params": sum(p.numel() for p in encoder.network.parameters()),
    }


@functools.lru_cache(NUM_OPEN)
def _encoder(
    spec: str, hints: Hints, device: str, stamp: tuple[int, ...]
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder on its device, and its description; opened anew when its file has changed."""
    encoder = load_encoder(spec, **asdict(hints))
    encoder.network.to(device)
    return encoder, _describe_encoder(encoder)


def _stamp(spec: str) -> tuple[int, ...]:
    """What changes when the file ``spec`` is written; nothing where it is none."""
    path = Path(spec)
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()


# The cells of a suite share data: each is opened once.
_images = functools.cache(catalog.open_labelled)
_scenes = functools.cache(catalog.open_scenes)
_label_maps = functools.cache(catalog.open_semantic)
