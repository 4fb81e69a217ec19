"""timm's networks by a string that suffices to rebuild them: a name, and options after it.

``timm:NAME[:key=value[,key=value...]]``, as in
``timm:vit_tiny_patch16_224:depth=2,embed_dim=64,num_heads=1``. Values are JSON (numbers, ``true``,
``false``, lists, quoted strings); whatever is no JSON is a string without quotes.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from moco_eval.errors import UsageError

PREFIX = "timm:"
# Ours: the eps of every LayerNorm, which most of timm's networks take from no argument.
NORM_EPS = "norm_eps"
# What other arguments say, what makes no encoder of it, and what would read or fetch a file.
RESERVED = frozenset(
    {
        *("cache_dir", "checkpoint_path", "device", "dtype", "exportable", "feature_cls"),
        *("features_only", "in_chans", "no_jit", "num_classes", "out_indices", "pretrained"),
        *("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args"),
        *("pretrained_strict", "pruned", "scriptable", "use_naflex"),
    }
)
KEY = re.compile(r"[A-Za-z_]\w*")
# What timm raises at an option that it does not know or cannot use.
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def split_arch(arch: str) -> tuple[str, dict[str, Any]]:
    """Take an architecture apart.

    Args:
        arch: Such as ``timm:vit_tiny_patch16_224:depth=2``; others than timm's have no options.

    Returns:
        The name, with ``timm:`` where that stood, and the options.

    Raises:
        UsageError: If what follows the name is no list of options.
    """
    if not arch.startswith(PREFIX):
        return arch, {}
    name, colon, rest = arch.removeprefix(PREFIX).partition(":")
    options: dict[str, Any] = {}
    while colon:
        key, equals, rest = rest.partition("=")
        if not equals or not KEY.fullmatch(key) or key in options:
            raise UsageError(
                f"'{arch}' is no architecture: '{key}' should begin an option. Options are "
                "written timm:NAME:key=value,key=value, each key once."
            )
        options[key], end = _value(rest)
        rest, colon = rest[end + 1 :], rest[end : end + 1]
    return PREFIX + name, options


def join_arch(name: str, options: Mapping[str, Any]) -> str:
    """Put an architecture together, its options in the order of their keys.

    Args:
        name: As ``split_arch`` returns it.
        options: Likewise; may be empty.

    Raises:
        UsageError: If a value is nothing that the string can hold.
    """
    written = []
    for key in sorted(options):
        text = _written(options[key])
        if text is None or not name.startswith(PREFIX) or not KEY.fullmatch(key):
            raise UsageError(
                f"The architecture {name} cannot carry the option {key}={options[key]!r}. "
                "timm's take numbers, true, false, lists of them, and strings."
            )
        written.append(f"{key}={text}")
    return ":".join([name, ",".join(written)] if written else [name])


def build_timm(
    arch: str, *, num_classes: int = 0, in_chans: int = 3, image_size: int | None = None
) -> nn.Module:
    """Build a network of timm's with fresh weights from torch's default generator.

    Args:
        arch: ``timm:NAME``, and options for ``timm.create_model`` after it. ``norm_eps`` is ours
            and sets the eps of every LayerNorm.
        num_classes: Outputs of the last layer; 0 leaves it out.
        in_chans: Channels of the images.
        image_size: Their side in pixels, which goes before ``img_size`` among the options; for
            networks that keep a size, such as ViTs.

    Raises:
        UsageError: If timm does not know the name or refuses an option.
    """
    import timm

    full_name, options = split_arch(arch)
    name = full_name.removeprefix(PREFIX)
    require_timm(name)
    for key in options:
        if key in RESERVED or options[key] is None:
            raise UsageError(
                f"{arch}: '{key}' is no option of an encoder's architecture. Leave it out."
            )
    eps = options.pop(NORM_EPS, None)
    # Convolutions do not know the argument.
    if image_size and getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        options["img_size"] = image_size
    try:
        network: nn.Module = timm.create_model(
            name, num_classes=num_classes, in_chans=in_chans, **options
        )
    except REFUSALS as error:
        raise UsageError(
            f"{arch} cannot be built. timm says: {type(error).__name__}: {error}. Its options are "
            f"the arguments of {name}."
        ) from error
    if eps is not None:
        _set_norm_eps(network, arch, eps)
    return network


def require_timm(name: str) -> None:
    """Refuse a name that timm does not know.

    Args:
        name: Without ``timm:`` and without options.

    Raises:
        UsageError: With the nearest names; all of them would fill the screen.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        offer = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"There is no timm model '{name}'.{offer} timm.list_models() has all.")


def timm_knows(arch: str) -> bool:
    """Whether timm has a network of this name, which begins with ``timm:``."""
    import timm

    known: bool = timm.is_model(arch.removeprefix(PREFIX))
    return known


def _set_norm_eps(network: nn.Module, arch: str, eps: Any) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    if not norms or isinstance(eps, bool) or not isinstance(eps, (int, float)) or eps <= 0:
        raise UsageError(
            f"{arch}: {NORM_EPS} is a positive number for the network's LayerNorms, found "
            f"{eps!r} for {len(norms)} of them."
        )
    for norm in norms:
        norm.eps = eps


def _value(text: str) -> tuple[Any, int]:
    """The value with which ``text`` begins, and where it ends: at a comma or the end."""
    try:
        value, end = json.JSONDecoder(parse_constant=str).raw_decode(text)
    # RecursionError: brackets without end; ValueError also for a number of thousands of digits.
    except (ValueError, RecursionError):
        end = len(text)
    else:
        if text[end : end + 1] in ("", ","):
            return value, end
    # No JSON, or what begins like it, as 3x3 does.
    word = text.partition(",")[0]
    return word, len(word)


def _written(value: Any) -> str | None:
    """``value`` as ``_value`` reads it; None if it cannot be."""
    try:
        text = json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError):
        return None
    forms = (value, text) if isinstance(value, str) else (text,)
    # Without quotes where a string needs none.
    return next((form for form in forms if _value(form) == (value, len(form))), None)
