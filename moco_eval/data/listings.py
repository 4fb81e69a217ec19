"""Images that a file names: a plain list, or a table with labels and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco_eval.data import file_sizes, fingerprint
from moco_eval.data.encoded_images import ImageFiles
from moco_eval.data.folder_index import is_image_name
from moco_eval.data.packed import PackedNames
from moco_eval.data.parts import LABEL_NAMES, Part, number, number_several, train_and_test
from moco_eval.data.splits import MultiLabelData, TrainingImages
from moco_eval.errors import DataError

# Of the column that holds several classes an image; not a spelling of one that holds one.
SEVERAL_NAME = "labels"
PATH_NAMES = ("path", "file", "image", "filename")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def open_list(rest: str) -> TrainingImages:
    """Open ``FILE`` or ``TRAIN_FILE:TEST_FILE``, one image a line, with a label or without.

    A label stands behind a tab, or behind a space if the line does not itself end as an image's
    name does. Paths are absolute or start at the file's folder.

    Raises:
        UsageError: If there are more than two files.
        DataError: If a file is missing, names no image, or none that is there.
    """
    source, *others = [Path(name) for name in train_and_test("list", rest)]
    test = _list_part(others[0]) if others else None
    return number(f"list-{source.stem}", _list_part(source), test)


def open_table(rest: str) -> TrainingImages | MultiLabelData:
    """Open a CSV file with a column ``path`` and, where there are, ``label`` and ``split``.

    A column ``labels`` instead holds any number of classes an image: ``cat|dog``. Images to test
    on are those of split ``test`` if all of them have labels, else of ``val``; without a column
    ``split`` all images are for training.

    Raises:
        DataError: If the file is missing, no such table, or names no image that is there.
    """
    import pandas as pd

    source = Path(rest)
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"csv:{source} cannot be read as a table: {error}.") from error
    columns = {str(name).strip().lower(): list(table[name]) for name in table.columns}
    paths = _column(columns, PATH_NAMES)
    if paths is None:
        raise DataError(
            f"csv:{source} has the columns {', '.join(columns)}; none of them is called "
            f"{', '.join(PATH_NAMES)}. Name the one that holds the images' paths 'path'."
        )
    several = columns.get(SEVERAL_NAME)
    words = several or _column(columns, LABEL_NAMES) or [""] * len(paths)
    rows = _Listed(source, paths, words)
    name, to_numbers = f"csv-{source.stem}", number_several if several else number
    named = columns.get("split")
    if named is None:
        return to_numbers(name, rows.whole(), None)
    splits = [_split_name(word, source) for word in named]
    train, val, test = (rows.split(splits, name) for name in ("train", "val", "test"))
    if train is None:
        raise DataError(f"csv:{source} names no image to train on: no row of split 'train'.")
    has_test = test is not None and (test.is_labelled or several is not None)
    return to_numbers(name, train, test if has_test else val)


class _Listed:
    """The images that one file names, with their sizes and labels in words."""

    def __init__(self, source: Path, paths: Sequence[str], words: Sequence[str]) -> None:
        if not paths:
            raise DataError(f"{source} names no images.")
        self.root = source.parent
        self.paths = paths
        self.words = [word.strip() for word in words]
        self.sizes = file_sizes.of_list(source, self.root, paths)
        if (self.sizes == file_sizes.MISSING).all():
            raise DataError(
                f"None of the {len(paths)} images that {source} names is there; the first would "
                f"be {self.root / paths[0]}. Paths start at the file's folder, or are absolute."
            )

    def whole(self) -> Part:
        """All images."""
        return self._chosen(np.arange(len(self.paths)))

    def split(self, splits: Sequence[str], name: str) -> Part | None:
        """The images whose row of ``splits`` is ``name``; None if there are none."""
        chosen = np.flatnonzero(np.array(splits) == name)
        return self._chosen(chosen) if len(chosen) else None

    def _chosen(self, rows: NDArray[np.int64]) -> Part:
        names = PackedNames.of(self.paths[row] for row in rows)
        prints = fingerprint.of_names(names, self.sizes[rows], None)
        return Part(ImageFiles(self.root, names), [self.words[row] for row in rows], prints)


def _list_part(source: Path) -> Part:
    try:
        text = source.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"list:{source} cannot be read: {error.strerror}.") from error
    entries = [_entry(line) for line in text.split("\n") if line.strip()]
    return _Listed(source, [path for path, _ in entries], [word for _, word in entries]).whole()


def _entry(line: str) -> tuple[str, str]:
    if "\t" in line:
        path, _, word = line.partition("\t")
        return path, word
    if is_image_name(line) or " " not in line:
        return line, ""
    path, _, word = line.rpartition(" ")
    return path.rstrip(), word


def _column(columns: Mapping[str, list[str]], names: Sequence[str]) -> list[str] | None:
    return next((columns[name] for name in names if name in columns), None)


def _split_name(word: str, source: Path) -> str:
    name = SPLIT_NAMES.get(word.strip().lower())
    if name is None:
        raise DataError(
            f"csv:{source} has a row of split '{word}'; known are {', '.join(SPLIT_NAMES)}."
        )
    return name
