"""What an encoder is, what it costs here, and whether its features look like features."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval.data import digits
from moco_eval.data.images import InputSpec, normalize
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks.infer import twins_of
from moco_eval.encoders.suspicion import input_warnings

# Images of each kind that features are judged on.
NUM_EACH = 32
# A dimension whose s.d. is below this share of the features' root mean square is constant.
CONSTANT = 1e-4
# Below this effective rank all images lie on little more than a line.
COLLAPSED_RANK = 2.0


def check(encoder: Encoder, *, batch: int = 8) -> dict[str, Any]:
    """Describe ``encoder`` and judge its features on a fixed set of images.

    Args:
        encoder: Any encoder.
        batch: Images in one forward pass.

    Returns:
        A JSON-able report: what the manifest says (``format`` to ``file_sha256``; ``dropped`` are
        names, ``loaded`` and ``expected`` count the architecture's tensors), ``tensor_sha256``,
        ``features`` (``dim``, ``finite``, ``sd`` the mean over dimensions, ``effective_rank``,
        ``num_constant``), ``cost`` (``params``, ``gflops`` for one image at two operations a
        multiply-add, ``images_per_s``) and ``warnings``.
    """
    pixels = sample_images(encoder.input.size)
    images = _fed(pixels, encoder.input)
    # Counted first, which also warms up.
    gflops = _gflops(encoder, images[:1])
    begun = time.perf_counter()
    features = torch.cat([encoder.features(part) for part in torch.split(images, batch)])
    took_s = time.perf_counter() - begun
    manifest = encoder.manifest
    judged = judge(features)
    return {
        "source": manifest.source,
        "format": manifest.format,
        "tower": manifest.tower,
        "arch": manifest.arch,
        "arch_by": manifest.arch_by,
        "loaded": manifest.num_loaded,
        "expected": len(encoder.tensors()),
        "dropped": list(manifest.dropped),
        "adapted": list(manifest.adapted),
        "caveat": manifest.caveat,
        "licence": manifest.licence,
        "input": dataclasses.asdict(manifest.input),
        "file_sha256": manifest.file_sha256,
        "tensor_sha256": encoder.tensor_sha256(),
        "features": judged,
        "cost": {
            "params": sum(p.numel() for p in encoder.network.parameters()),
            "gflops": gflops,
            "images_per_s": len(images) / took_s,
        },
        "warnings": warnings_of(judged) + input_warnings(encoder, pixels),
    }


def describe(report: dict[str, Any]) -> str:
    """The report for people: a few lines, warnings last."""
    fed, features, cost = report["input"], report["features"], report["cost"]
    lines = [
        f"{report['source']}: {report['arch']}{_by(report)}",
        f"  format    {report['format']}, tower {report['tower']}",
        f"  tensors   {report['loaded']} loaded of {report['expected']} expected, "
        f"{len(report['dropped'])} dropped by rule",
        f"  input     {fed['size']} pixels, {fed['channel_order']}, mean {_short(fed['mean'])}, "
        f"std {_short(fed['std'])}, {fed['interpolation']}, crop {fed['crop_pct']:g}",
        f"  features  {features['dim']} dimensions, s.d. {features['sd']:.3g}, effective rank "
        f"{features['effective_rank']:.1f}, {features['num_constant']} constant",
        f"  cost      {cost['params'] / 1e6:.2f} M parameters, {cost['gflops']:.3g} GFLOPs an "
        f"image, {cost['images_per_s']:.0f} images/s here",
        f"  sha256    tensors {report['tensor_sha256']}",
        f"            file    {report['file_sha256'] or '-'}",
    ]
    lines += [f"  adapted   {text}" for text in report["adapted"]]
    lines += [f"  {key:9} {report[key]}" for key in ("licence", "caveat") if report[key]]
    return "\n".join(lines + [f"  WARNING   {text}" for text in report["warnings"]])


def _by(report: dict[str, Any]) -> str:
    """That nobody named the architecture, and which others look the same."""
    if report["arch_by"] != "shapes":
        return ""
    twins = twins_of(report["arch"])
    alike = f"; {', '.join(twins)} would look the same, and --arch says so" if twins else ""
    return f" (told by names and shapes{alike})"


def judge(features: Tensor) -> dict[str, Any]:
    """How features ``(N, D)`` of different images spread.

    The effective rank is the exponential of the entropy of the centred features' normalised
    singular values (Roy and Vetterli, 2007): 1 on a line, at most ``min(N - 1, D)``.
    """
    finite = bool(features.isfinite().all())
    values = features.double().nan_to_num(0.0, 0.0, 0.0)
    sd = values.std(dim=0)
    singular = torch.linalg.svdvals(values - values.mean(dim=0))
    share = singular / singular.sum().clamp(min=1e-300)
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    scale = values.square().mean().sqrt()
    return {
        "dim": features.shape[1],
        "finite": finite,
        "sd": float(sd.mean()),
        "effective_rank": float(entropy.exp()),
        "num_constant": int((sd <= CONSTANT * scale).sum()),
    }


def warnings_of(judged: dict[str, Any]) -> list[str]:
    """What is wrong with features that ``judge`` judged, in sentences."""
    found = []
    if not judged["finite"]:
        found.append("features are not finite: the training may have diverged")
    if judged["num_constant"] == judged["dim"]:
        found.append("features are constant: every image gets the same ones")
    elif judged["effective_rank"] < COLLAPSED_RANK:
        found.append(
            f"features have collapsed: their effective rank is {judged['effective_rank']:.1f} of "
            f"{judged['dim']}, so different images differ along one direction"
        )
    elif judged["num_constant"] > judged["dim"] / 2:
        found.append(f"{judged['num_constant']} of {judged['dim']} dimensions are constant")
    return found


def sample_images(size: int) -> Tensor:
    """The fixed images that features are judged on, ``(2 * NUM_EACH, 3, size, size)`` on 0-1.

    Half are smooth noise in colour, of grains from half an image to a sixteenth; half are digits.
    """
    generator = torch.Generator().manual_seed(0)
    noise = [
        F.interpolate(
            torch.rand(1, 3, grains, grains, generator=generator), (size, size), mode="bicubic"
        ).clamp(0, 1)
        for grains in (2, 4, 8, 16)
        for _ in range(NUM_EACH // 4)
    ]
    ink = torch.from_numpy(digits.load()[0][:NUM_EACH]).float() / 16
    written = F.interpolate(ink[:, None], (size, size), mode="bilinear").expand(-1, 3, -1, -1)
    return torch.cat([*noise, written])


def _fed(pixels: Tensor, spec: InputSpec) -> Tensor:
    """The encoder's input; of more channels than three the first three are repeated."""
    channels = len(spec.mean)
    if channels in (1, 3):
        return normalize(pixels, spec)
    repeated = pixels[:, torch.arange(channels) % 3]
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    return (repeated - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def _gflops(encoder: Encoder, image: Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        encoder.features(image)
    return float(counter.get_total_flops()) / 1e9


def _short(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)
