"""An encoder as timm's own network: its weights in one file, or a folder as on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports.export import (
    Evidence,
    Export,
    evidence_of,
    record_of,
    resnet_arch,
    safetensors_bytes,
    state_dict_bytes,
    tensors_of,
    write_synced,
)
from moco_eval.encoders.networks import build_network, mocov3_vit
from moco_eval.encoders.networks.resnets import is_resnet
from moco_eval.encoders.networks.timm_networks import NORM_EPS, PREFIX, join_arch, split_arch
from moco_eval.encoders.reading.reader import CONFIG, FOLDER_WEIGHTS
from moco_eval.errors import UsageError

# MoCo v3's transformers that are timm's but for their numbers.
PLAIN_VITS = {
    "vit_small_mocov3": "vit_small_patch16_224",
    "vit_base_mocov3": "vit_base_patch16_224",
    "vit_digits": "vit_tiny_patch16_224",
}


class Recipe(NamedTuple):
    """What timm.create_model is given: a name, with the tag of its weights if any, and options."""

    name: str
    options: dict[str, Any]

    @property
    def arch(self) -> str:
        return join_arch(PREFIX + self.name, self.options)


def prepare_file(encoder: Encoder) -> Export:
    """A state dict that timm.create_model takes as ``checkpoint_path``, without classifier.

    Raises:
        UsageError: If timm has no such network.
    """
    recipe = recipe_of(encoder)
    tensors, record = tensors_of(encoder), record_of(encoder, recipe.arch)

    def write(path: Path) -> None:
        to_bytes = safetensors_bytes if path.suffix == ".safetensors" else state_dict_bytes
        write_synced(path, to_bytes(tensors, record))

    def reload(path: Path) -> Evidence:
        arguments = {**recipe.options, **_channels(encoder), "checkpoint_path": str(path)}
        return _evidence_in_timm(encoder, recipe.name, arguments)

    return Export(
        arch=recipe.arch,
        write=write,
        expected=evidence_of(encoder),
        reload=reload,
        image_size=encoder.input.size,
    )


def prepare_folder(encoder: Encoder) -> Export:
    """A folder as the hub holds it: config.json, model.safetensors and a model card.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and ``load_encoder(FOLDER)`` take it.

    Raises:
        UsageError: If timm has no such network, or cannot be told how it is fed.
    """
    recipe = recipe_of(encoder)
    if encoder.input.channel_order != "RGB":
        raise UsageError(
            f"{encoder.name} is fed {encoder.input.channel_order}, which {CONFIG} cannot say: timm "
            "feeds RGB. Take --to timm or safetensors, which carry it in their record."
        )
    config = config_of(encoder, recipe)
    content = safetensors_bytes(tensors_of(encoder), record_of(encoder, recipe.arch))

    def write(path: Path) -> None:
        path.mkdir()
        write_synced(path / CONFIG, json.dumps(config, indent=2).encode())
        write_synced(path / FOLDER_WEIGHTS[0], content)
        write_synced(path / "README.md", model_card(encoder, recipe).encode())

    def reload(path: Path) -> Evidence:
        return _evidence_in_timm(encoder, f"local-dir:{path}", {"pretrained": True})

    return Export(
        arch=recipe.arch,
        write=write,
        expected=evidence_of(encoder),
        reload=reload,
        image_size=encoder.input.size,
    )


def recipe_of(encoder: Encoder) -> Recipe:
    """How timm builds the encoder's network.

    Raises:
        UsageError: If it does not.
    """
    import timm

    name, options = _named(encoder)
    if not timm.is_model(name):
        raise _no_such_network(encoder, "timm has no such network")
    if NORM_EPS in options:
        del options[NORM_EPS]
        plain = build_network(join_arch(PREFIX + name, options))
        if _eps_of(plain) != _eps_of(encoder.network):
            raise _no_such_network(
                encoder,
                f"its LayerNorms have an eps of {_eps_of(encoder.network)}, timm's {name} of "
                f"{_eps_of(plain)}, and no argument of timm's says another",
            )
    published: Any = timm.get_pretrained_cfg(name)
    if published.fixed_input_size and encoder.input.size != published.input_size[-1]:
        options["img_size"] = encoder.input.size
    return Recipe(name, options)


def config_of(encoder: Encoder, recipe: Recipe) -> dict[str, Any]:
    """The folder's config.json: the network, and how timm feeds it."""
    fed = encoder.input
    name, _, tag = recipe.name.partition(".")
    network: Any = build_network(recipe.arch)
    published = dict(network.pretrained_cfg)
    arguments = {**recipe.options, **_channels(encoder)}
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": network.num_features,
        "global_pool": published.get("global_pool") or _pooling(network),
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            **({"tag": tag} if tag else {}),
            "custom_load": False,
            "input_size": [len(fed.mean), fed.size, fed.size],
            "fixed_input_size": bool(published.get("fixed_input_size")),
            "interpolation": fed.interpolation,
            "crop_pct": fed.crop_pct,
            "crop_mode": "center",
            "mean": list(fed.mean),
            "std": list(fed.std),
            "num_classes": 0,
            "pool_size": published.get("pool_size"),
            "first_conv": published.get("first_conv"),
            "classifier": published.get("classifier"),
        },
    }


def model_card(encoder: Encoder, recipe: Recipe) -> str:
    """README.md of the folder: what it is, where it comes from, how it is fed and loaded."""
    manifest, fed = encoder.manifest, encoder.input
    licence = f"license: {manifest.licence}\n" if manifest.licence else ""
    resized = round(fed.size / fed.crop_pct)
    facts = {
        "architecture": recipe.arch,
        "source": Path(manifest.source).name,
        "format": f"{manifest.format}, tower {manifest.tower}",
        "licence": manifest.licence or "not known: ask the author of the weights",
        "SHA-256 of the source file": manifest.file_sha256 or "-",
        "SHA-256 of the tensors": encoder.tensor_sha256(),
        "images": f"short side resized to {resized} ({fed.interpolation}), centre {fed.size}",
        "mean": ", ".join(f"{value:g}" for value in fed.mean),
        "standard deviation": ", ".join(f"{value:g}" for value in fed.std),
        **{f"adapted ({n})": text for n, text in enumerate(manifest.adapted, start=1)},
        **({"caveat": manifest.caveat} if manifest.caveat else {}),
        **_trained(manifest.pretrain),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
library_name: timm
{licence}tags:
- image-feature-extraction
- timm
---
# {recipe.name.partition(".")[0]}, an image encoder

Pooled features, no classifier. Written by `moco-eval convert`, reloaded in timm and compared with
its source before it was put here.

| | |
|---|---|
{table}

```python
import timm

encoder = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))
```

To evaluate it: `moco-eval linear FOLDER --data imagefolder:DIR`
"""


def _named(encoder: Encoder) -> tuple[str, dict[str, Any]]:
    """What timm may call the architecture, which it need not know, and options."""
    arch = encoder.arch
    if arch.startswith(PREFIX):
        name, options = split_arch(arch)
        return name.removeprefix(PREFIX), options
    if arch in PLAIN_VITS:
        plan = mocov3_vit.PLANS[arch]
        numbers = {"embed_dim": plan.dim, "depth": plan.depth, "num_heads": plan.num_heads}
        return PLAIN_VITS[arch], {**numbers, "patch_size": plan.patch}
    # Those of torchvision bear the same names in timm, and so do all their tensors.
    return (resnet_arch(encoder, "timm") if is_resnet(arch) else arch), {}


def _evidence_in_timm(encoder: Encoder, name: str, arguments: Mapping[str, Any]) -> Evidence:
    import timm

    network: nn.Module = timm.create_model(name, num_classes=0, **arguments)
    return evidence_of(Encoder(network, encoder.manifest), f"timm {timm.__version__}")


def _channels(encoder: Encoder) -> dict[str, int]:
    channels = len(encoder.input.mean)
    return {} if channels == 3 else {"in_chans": channels}


def _eps_of(network: nn.Module) -> list[float]:
    return sorted({module.eps for module in network.modules() if isinstance(module, nn.LayerNorm)})


def _pooling(network: Any) -> str:
    pool = getattr(network, "global_pool", "")
    return pool if isinstance(pool, str) else str(getattr(pool, "pool_type", ""))


def _trained(pretrain: Mapping[str, Any]) -> dict[str, str]:
    """What the file said of its training, where it is a word or a number."""
    plain = {key: value for key, value in pretrain.items() if isinstance(value, (str, int, float))}
    return {f"training: {key}": str(value) for key, value in plain.items()}


def _no_such_network(encoder: Encoder, reason: str) -> UsageError:
    return UsageError(
        f"{encoder.arch} cannot be written for timm: {reason}. Take --to safetensors, which "
        "moco-eval loads, or torchvision for a ResNet of any width."
    )
