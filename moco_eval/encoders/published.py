"""Published weights, through the downloader of the library that publishes them."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from moco_eval.data.images import InputSpec
from moco_eval.encoders.claims import Claim
from moco_eval.encoders.encoder import Manifest
from moco_eval.encoders.formats import format_named
from moco_eval.encoders.networks.resnets import resnets
from moco_eval.encoders.networks.timm_networks import require_timm
from moco_eval.encoders.reading.reader import RECORD
from moco_eval.encoders.timm_facts import timm_input
from moco_eval.errors import CheckpointError, UsageError, unknown

# What a model's folder on the hub may hold that is read here.
HUB_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin", "open_clip_pytorch_model.bin")


def from_torchvision(spec: str, name: str) -> tuple[Claim, str]:
    """The tensors of ``NAME[@WEIGHTS]`` as a claimed file, and their architecture.

    Raises:
        UsageError: If torchvision has no such ResNet or weights.
        CheckpointError: If they cannot be fetched.
    """
    import torchvision

    arch, _, wanted = name.partition("@")
    known = set(torchvision.models.list_models()) & set(resnets())
    if arch not in known:
        raise unknown("torchvision ResNet", arch, known)
    published = torchvision.models.get_model_weights(arch)
    wanted = wanted or published.DEFAULT.name
    if wanted not in published.__members__:
        raise unknown(f"set of weights of {arch} called", wanted, published.__members__)
    weights = published[wanted]
    try:
        tensors = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except OSError as error:
        raise _not_fetched(spec, error, f"fetch {weights.url}, and pass that file") from error
    transform = weights.transforms()
    size = transform.crop_size[0]
    fed = InputSpec(
        size=size,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
        crop_pct=size / transform.resize_size[0],
    )
    found = Claim(
        source=spec,
        format=format_named("torchvision"),
        tower="encoder",
        prefix="",
        tensors=tensors,
        said={RECORD: {"input": dataclasses.asdict(fed), "weights": wanted}},
    )
    return found, arch


def from_timm(spec: str, name: str) -> tuple[nn.Module, Manifest]:
    """The network that timm builds and fills.

    Raises:
        UsageError: If timm does not know the name.
        CheckpointError: If it has no weights of it, or they cannot be fetched.
    """
    import timm

    require_timm(name)
    try:
        with _patient_only_where_there_is_a_network():
            network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except OSError as error:
        where = "fetch its folder (config.json and model.safetensors), and pass that folder"
        raise _not_fetched(spec, error, where) from error
    except RuntimeError as error:
        raise CheckpointError(f"{spec}: timm says: {error}") from error
    fed = timm_input(spec, network, {})
    assert fed is not None, f"timm's {name} has no configuration"
    config = getattr(network, "pretrained_cfg", {})
    manifest = Manifest(
        source=spec,
        format="timm",
        tower="encoder",
        arch=spec,
        input=fed,
        num_loaded=len(network.state_dict()),
        licence=config.get("license") or "",
    )
    return network, manifest


def from_hub(spec: str, name: str) -> Path:
    """The folder of ``ORG/NAME[@REVISION]`` on the Hugging Face hub, fetched or from the cache.

    Raises:
        UsageError: If the name is none.
        CheckpointError: If it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    model, _, revision = name.partition("@")
    try:
        folder = snapshot_download(model, revision=revision or None, allow_patterns=[*HUB_FILES])
    except HFValidationError as error:
        raise UsageError(f"{spec}: hf:ORG/NAME[@REVISION] names a model: {error}") from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{spec}: the hub answers: {error}") from error
    except OSError as error:
        raise _not_fetched(spec, error, "fetch its folder, and pass that folder") from error
    return Path(folder)


@contextlib.contextmanager
def _patient_only_where_there_is_a_network() -> Iterator[None]:
    """Spare a machine on which not even the hub's name resolves the client's minute of retries."""
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    try:
        # Behind a proxy, it is the proxy that resolves names.
        if not urllib.request.getproxies():
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _not_fetched(spec: str, error: OSError, remedy: str) -> CheckpointError:
    reason = str(error).splitlines()[0]
    return CheckpointError(
        f"The weights of {spec} cannot be fetched, and no earlier copy lies in the cache: there "
        f"seems to be no network ({reason}). On a machine that has one, {remedy}."
    )
