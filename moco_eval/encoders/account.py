"""Every tensor of a file against every tensor of an architecture: both sides come out even."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moco_eval.encoders.claims import ADVICE, Claim, other_prefixes
from moco_eval.encoders.encoder import is_counter
from moco_eval.encoders.formats.layout import CLASSIFIER, matches, strip_wrappers, to_ours
from moco_eval.encoders.networks import classifier_names
from moco_eval.encoders.reading.reader import shortened
from moco_eval.errors import CheckpointError


@dataclass(kw_only=True)
class Sorted:
    """A file's tensors by what a format's rules say of them.

    Attributes:
        found: The encoder's, under canonical names.
        theirs: Their originals in the file, under the names that renaming alone gives.
        dropped: What a rule leaves out, under the file's names.
        unclaimed: What no rule speaks of, likewise.
    """

    found: dict[str, Tensor] = field(default_factory=dict)
    theirs: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unclaimed: list[str] = field(default_factory=list)


def sort_tensors(claim: Claim, *, classifiers: tuple[str, ...] = ()) -> Sorted:
    """Apply the format's rules to each tensor of the file.

    Args:
        claim: The file and its format.
        classifiers: What a drop rule's ``{classifier}`` stands for.

    Raises:
        CheckpointError: If two of the file's names mean the same tensor, or they are not as the
            format's transform must have them.
    """
    drop = [
        rule.replace(CLASSIFIER, classifier)
        for rule in claim.format.drop
        for classifier in (classifiers if CLASSIFIER in rule else ("",))
    ]
    others, result = other_prefixes(claim), Sorted()
    for theirs, value in claim.tensors.items():
        name = strip_wrappers(theirs)
        ours = to_ours(name, claim.format, claim.prefix)
        inner = name.removeprefix(claim.prefix)
        if name.startswith(others) or matches(name, drop) or matches(inner, drop):
            result.dropped.append(theirs)
        elif ours is None or not isinstance(value, Tensor):
            result.unclaimed.append(theirs)
        elif ours in result.found:
            raise CheckpointError(
                f"{claim.source}: {result.theirs[ours]} and {theirs} both mean {ours}. "
                f"A file of format '{claim.format.name}' holds one of them."
            )
        else:
            result.found[ours], result.theirs[ours] = value, theirs
    if claim.format.transform:
        try:
            result.found = claim.format.transform(result.found)
        except ValueError as error:
            raise CheckpointError(
                f"{claim.source} cannot be read as '{claim.format.name}': {error}"
            ) from error
    return result


@contextlib.contextmanager
def without_initialisation() -> Iterator[None]:
    """Build networks whose weights will all be filled without drawing any: faster by half."""
    with _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as they are where an initialisation would fill them with random numbers."""

    FILLS = (Tensor.normal_, Tensor.uniform_)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func in self.FILLS else func(*args, **(kwargs or {}))


def fill(network: nn.Module, claim: Claim, *, arch: str) -> Sorted:
    """Load the claimed tensors into ``network``, which is of architecture ``arch``.

    Returns:
        What was loaded and what was dropped; nothing is unclaimed.

    Raises:
        CheckpointError: If a tensor of the network is missing, one of the file is claimed by no
            rule, or a shape or kind differs. Everything that is wrong is listed.
    """
    state = network.state_dict()
    held = sort_tensors(claim, classifiers=classifier_names(network))
    held.unclaimed += [held.theirs.get(name, name) for name in held.found if name not in state]
    missing = [n for n in state if n not in held.found and not is_counter(n)]
    misfits = [
        f"{name} is {_shape(value)}, expected {_shape(state[name])}"
        for name, value in held.found.items()
        if name in state and not _fits(value, state[name])
    ]
    lines = {
        f"missing ({len(state)} expected)": missing,
        "in the file but claimed by no rule": held.unclaimed,
        "of another shape": misfits,
    }
    problems = [f"  {what}: {shortened(names)}" for what, names in lines.items() if names]
    if problems:
        raise CheckpointError(
            "\n".join(
                [
                    f"{claim.source} cannot be read as '{claim.format.name}'.",
                    *problems,
                    *_positions(network, held.found),
                    f"The architecture is {arch}; --arch NAME takes another.",
                    ADVICE,
                ]
            )
        )
    filled = {name: _own(held.found.get(name, value), value) for name, value in state.items()}
    network.load_state_dict(filled, strict=True, assign=True)
    return held


def _own(value: Tensor, expected: Tensor) -> Tensor:
    """``value`` in the expected type, dense, and with a memory that nothing else shares."""
    dense = value.to(expected.dtype).contiguous()
    is_alone = dense.untyped_storage().nbytes() == dense.numel() * dense.element_size()
    return dense if is_alone else dense.clone()


def _fits(value: Tensor, expected: Tensor) -> bool:
    same_kind = value.is_floating_point() == expected.is_floating_point()
    return value.shape == expected.shape and same_kind


def _shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" of {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def channels_of(network: nn.Module, found: Mapping[str, Tensor]) -> int:
    """How many channels the images of ``found`` have, where those of ``network`` have 3.

    The first convolution tells. In proportion: some fold an image's pixels into channels first.
    """
    convolutions = (n for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    name = f"{next(convolutions, '')}.weight"
    ours, theirs = network.state_dict().get(name), found.get(name)
    if ours is None or theirs is None or theirs.dim() != 4:
        return 3
    return 3 * theirs.shape[1] // int(ours.shape[1])


def position_size(network: nn.Module, found: Mapping[str, Tensor]) -> int | None:
    """The side in pixels of the images that the position embedding in ``found`` is for.

    None where the network has none of such, or it is for the size that the network takes.
    """
    ours, theirs = network.state_dict().get("pos_embed"), found.get("pos_embed")
    patch: Any = getattr(network, "patch_embed", None)
    if ours is None or theirs is None or ours.dim() != 3 or theirs.dim() != 3 or patch is None:
        return None
    rows, columns = patch.grid_size
    num_patches = theirs.shape[1] - (ours.shape[1] - rows * columns)
    side = math.isqrt(max(num_patches, 0))
    if ours.shape[1] == theirs.shape[1] or side * side != num_patches:
        return None
    return side * int(patch.patch_size[0])


def _positions(network: nn.Module, found: Mapping[str, Tensor]) -> list[str]:
    """For which input size a ViT's file is, where its position embedding says another one."""
    size = position_size(network, found)
    if size is None:
        return []
    patch: Any = network.get_submodule("patch_embed")
    return [
        f"  pos_embed is for images of {size} pixels; this architecture takes {patch.img_size[0]}"
    ]
