"""The numbers of a training, step by step: a file of rows, and TensorBoard's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moco_eval.errors import UsageError, output_error
from moco_eval.files import write_text


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, in the order of the steps.

    Args:
        path: The file; what an interrupted run wrote after ``first_step`` is dropped.
        first_step: Where this run begins.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] < first_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, in the file when this returns.

        Raises:
            OutputError: If it cannot be written.
        """
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise output_error(self.path, error) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, without a torn last line; none where there is no file."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class TensorBoardFile:
    """The rows of ``metrics.jsonl`` once more, for TensorBoard to draw.

    Args:
        folder: Where TensorBoard looks for event files.
        first_step: Where this run begins; what an interrupted run wrote from there on is hidden.
        tag: What TensorBoard calls a number; ``train/NAME`` where it is not given.

    Raises:
        UsageError: If TensorBoard is not installed.
        OutputError: If the folder cannot be written.
    """

    def __init__(
        self, folder: Path, *, first_step: int, tag: Callable[[str], str] = "train/{}".format
    ) -> None:
        self.folder = folder
        self.tag = tag
        try:
            # A second to import, and only this class needs it.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "TensorBoard is not installed. Either: pip install tensorboard; or run without "
                "it: --no-tensorboard"
            ) from error
        try:
            self.writer = SummaryWriter(str(folder), purge_step=first_step)
        except OSError as error:
            raise output_error(folder, error) from error

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row's numbers at its step, such as ``train/loss``.

        Raises:
            OutputError: If an earlier row could not be written; a thread writes them.
        """
        try:
            for name, value in row.items():
                if name not in ("step", "epoch"):
                    self.writer.add_scalar(self.tag(name), value, row["step"])
        except OSError as error:
            raise output_error(self.folder, error) from error

    def close(self) -> None:
        """Write what is left and end the writing thread.

        Raises:
            OutputError: If it cannot be written.
        """
        try:
            self.writer.close()
        except OSError as error:
            raise output_error(self.folder, error) from error
