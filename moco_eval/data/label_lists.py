"""Lists of the training images whose labels a low-shot protocol may see.

The published ones are SimCLR's 1 % and 10 % of ImageNet (arXiv:2002.05709, B.5), which semi-
supervised results have been measured on since. They are fetched once, checked, and kept in the
user's cache folder.
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moco_eval.data.index_cache import users_folder
from moco_eval.data.splits import Split
from moco_eval.errors import DataError, UsageError, unknown
from moco_eval.files import atomic_file

TIMEOUT_S = 60
# How many names an error shows.
NUM_SHOWN = 3


@dataclass(frozen=True)
class PublishedList:
    """A list as its authors have it.

    Attributes:
        url: Where it lies.
        sha256: Of its bytes.
        num_names: How many images it names.
    """

    url: str
    sha256: str
    num_names: int


_SIMCLR = (
    "https://raw.githubusercontent.com/google-research/simclr/"
    "383d4143fd8cf7879ae10f1046a9baeb753ff438/imagenet_subsets"
)
PUBLISHED_LISTS = {
    "imagenet-1percent": PublishedList(
        f"{_SIMCLR}/1percent.txt",
        "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
        12811,
    ),
    "imagenet-10percent": PublishedList(
        f"{_SIMCLR}/10percent.txt",
        "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091",
        128116,
    ),
}


@dataclass(frozen=True)
class LabelList:
    """The names of a list.

    Attributes:
        source: The file that they were read from.
        sha256: Of its bytes.
        names: File names, or the ends of paths.
    """

    source: str
    sha256: str
    names: tuple[str, ...]


def read_list(subset: str) -> LabelList:
    """Read one of ``PUBLISHED_LISTS``, or a file with a name a line.

    Raises:
        UsageError: If there is neither such a list nor such a file.
        DataError: If a published list can neither be found nor fetched, or is not as published;
            or a file names nothing, or an image twice.
    """
    if subset in PUBLISHED_LISTS:
        content, source = _published(subset)
    else:
        path = Path(subset)
        if not path.is_file():
            raise UsageError(f"{unknown('list', subset, PUBLISHED_LISTS)} Nor is it a file.")
        content, source = path.read_bytes(), str(path)
    names = tuple(line.strip() for line in content.decode().splitlines() if line.strip())
    if not names or len(set(names)) < len(names):
        twice = len(names) - len(set(names))
        raise DataError(
            f"{source} names {len(names)} images, {twice} of them more than once. A list has one "
            "name a line, each once."
        )
    return LabelList(source, hashlib.sha256(content).hexdigest(), names)


def indices_of(split: Split, listed: LabelList) -> Tensor:
    """Which images of ``split`` a list names: indices ``(N,)``, ascending.

    A name is that of an image's file; with slashes in it, the end of its path.

    Raises:
        DataError: If the images have no names, or a name is that of no image, or of several.
    """
    name_of = getattr(split.images, "name_of", None)
    if name_of is None:
        raise DataError(
            f"{listed.source} names images by their files, and these images have none. Open them "
            "as imagefolder:DIR, list:TRAIN:TEST, csv:FILE or wds:TRAIN:TEST."
        )
    # An archive's path and the name within it have a colon between them.
    places = [name_of(index).replace(":", "/") for index in range(len(split))]
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, place in enumerate(places):
        by_name[place.rpartition("/")[2]].append(index)
    found, absent, several = [], [], []
    for name in listed.names:
        matching = by_name.get(name.rpartition("/")[2], [])
        if "/" in name:
            matching = [i for i in matching if f"/{places[i]}".endswith(f"/{name.lstrip('/')}")]
        found += matching[:1]
        absent += [] if matching else [name]
        several += [name] if len(matching) > 1 else []
    if absent or several:
        raise DataError(
            f"{listed.source} names {len(listed.names)} images: {len(found) - len(several)} are "
            f"among the {len(split)} training images once, {len(several)} several times"
            f"{_shown(several)} and {len(absent)} not at all{_shown(absent)}. The list belongs to "
            "other images, or some are missing."
        )
    return torch.tensor(sorted(found))


def _published(name: str) -> tuple[bytes, str]:
    """The bytes of a published list, from the cache folder or the network, and where they lie."""
    published, folder = PUBLISHED_LISTS[name], users_folder()
    path = folder / "subsets" / f"{name}.txt" if folder else None
    if path is not None and path.is_file():
        content = path.read_bytes()
        _require_sha256(content, published, str(path))
        return content, str(path)
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT_S) as answer:
            content = answer.read()
    except OSError as error:
        place = f"put it there: {path}; or " if path else ""
        raise DataError(
            f"The list {name} cannot be fetched from {published.url}: {error}. Fetch it on a "
            f"machine that has a network, and {place}name the file: --set subset=FILE"
        ) from error
    _require_sha256(content, published, published.url)
    if path is not None:
        with atomic_file(path) as file:
            file.write(content)
    return content, published.url


def _require_sha256(content: bytes, published: PublishedList, source: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise DataError(
            f"{source} is not the published list: it has the SHA-256 {found}, expected "
            f"{published.sha256}. Remove it, or fetch {published.url} again."
        )


def _shown(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = " ..." if len(names) > NUM_SHOWN else ""
    return f" ({', '.join(names[:NUM_SHOWN])}{more})"
