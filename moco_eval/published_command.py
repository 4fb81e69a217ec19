"""``moco-eval published``: search the numbers that papers published."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from moco_eval.published import PublishedNumber

WIDTH = 100
# So much is read at once; the other formats are read by programs.
LIMIT = 200


def add_options(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = """examples:
  moco-eval published "MoCo v2" voc_det_c4_24k
  moco-eval published --protocol detect --dataset voc07+12 --metric AP --method "MoCo v1"
  moco-eval published 1911.05722 --format csv

PROTOCOL, DATASET and METRIC are the file's names or this program's own: voc_det_c4_24k or detect,
VOC07+12 test2007 or voc07+12, APmk or AP_mask."""
    add = parser.add_argument
    add("words", type=str, nargs="*", metavar="WORD", help="every word must occur in a row")
    add("--protocol", type=str, default="", help="the whole name of a protocol")
    add("--method", type=str, default="", help="a part of the name of the method")
    add("--dataset", type=str, default="", help="the whole name of a data set")
    add("--metric", type=str, default="", help="the whole name of a metric")
    add("--source", type=str, default="", help="a part of the source: 1911.05722 Table 2")
    add("--verified-only", action="store_true", help="only what was compared with its source")
    add("--format", type=str, default="text", help="text, md, csv or json")
    add(
        "--limit",
        type=int,
        default=None,
        help=f"show at most so many, 0 for all; by default {LIMIT} as text, and all otherwise",
    )


def run(arguments: Namespace) -> None:
    """Print what was found; how many on the first line, or beside a program's output."""
    from moco_eval.errors import UsageError, unknown
    from moco_eval.published import search

    if arguments.format not in FORMATS:
        raise unknown("format of published numbers", arguments.format, FORMATS)
    names = ("protocol", "method", "dataset", "metric", "source")
    filters = {name: arguments[name] for name in names if arguments[name]}
    limit = arguments.limit
    if limit is None:
        limit = LIMIT if arguments.format == "text" else 0
    if limit < 0:
        raise UsageError(f"--limit {limit}: it is 0 for all, or how many to show.")
    found = search(arguments.words, only_verified=arguments.verified_only, **filters)
    shown = found[:limit] if limit else found
    is_for_people = arguments.format in ("text", "md")
    summary = _summary(found, len(shown))
    print(
        summary, end="\n\n" if is_for_people else "\n", file=None if is_for_people else sys.stderr
    )
    print(FORMATS[arguments.format](shown), end="")


def _summary(found: Sequence[PublishedNumber], num_shown: int) -> str:
    sources = {each.source for each in found}
    text = f"{len(found):,} published number{'s' * (len(found) != 1)} found"
    text += f", from {len(sources)} source{'s' * (len(sources) != 1)}"
    unverified = sum(not each.is_verified for each in found)
    if unverified:
        text += f", {unverified} of them unverified (*)"
    if num_shown < len(found):
        text += f"; the first {num_shown} are shown, all with --limit 0"
    return f"{text}."


def _as_text(numbers: Sequence[PublishedNumber]) -> str:
    """A small table for each source, protocol and data set, its metrics side by side."""
    blocks: dict[tuple[str, str, str], list[PublishedNumber]] = {}
    for each in numbers:
        blocks.setdefault((each.source, each.protocol, each.dataset), []).append(each)
    notes = list(dict.fromkeys(a.note for each in numbers for a in each.addresses if a.note))
    texts = [f"[{place}] {note}." for place, note in enumerate(notes, start=1)]
    if not all(each.is_verified for each in numbers):
        texts.append(_unverified_note())
    lines = [textwrap.fill(text, WIDTH, subsequent_indent="  ") for text in texts]
    return "\n".join([*(_block(*at, block, notes) for at, block in blocks.items()), *lines, ""])


def _block(
    source: str,
    protocol: str,
    dataset: str,
    numbers: Sequence[PublishedNumber],
    notes: Sequence[str],
) -> str:
    metrics = list(dict.fromkeys(each.metric for each in numbers))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for each in numbers:
        who = (each.method, each.architecture, each.pretrain_data, each.pretrain_epochs)
        rows.setdefault(who, {})[each.metric] = each.text
    lines = [
        ["method", "architecture", "trained on", "epochs", *metrics],
        *([*who, *(row.get(metric, "") for metric in metrics)] for who, row in rows.items()),
    ]
    head = [source, f"{protocol} on {dataset}{_here(numbers, notes)}"]
    return "\n".join([*head, *_aligned(lines, num_words=4), ""])


def _here(numbers: Sequence[PublishedNumber], notes: Sequence[str]) -> str:
    """Which commands measure the same, each with the number of its note."""
    ours = dict.fromkeys(
        f"{', '.join(address.protocols)}; recipe {' or '.join(address.recipes)}; data "
        f"{address.datasets[each.dataset]}"
        + (f" [{notes.index(address.note) + 1}]" if address.note else "")
        for each in numbers
        for address in each.addresses
    )
    return "".join(f"\n  here: {text}" for text in ours)


def _aligned(lines: Sequence[Sequence[str]], *, num_words: int) -> list[str]:
    """Words to the left, numbers to the right; a first word too long for the page is folded."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    widths[0] = max(12, min(widths[0], WIDTH - 2 - sum(widths[1:]) - 2 * len(widths[1:])))
    aligned = []
    for first, *others in lines:
        head, *rest = textwrap.wrap(first, widths[0]) or [""]
        cells = [
            word.ljust(width) if place < num_words - 1 else word.rjust(width)
            for place, (word, width) in enumerate(zip(others, widths[1:], strict=True))
        ]
        aligned.append("  ".join(["  " + head.ljust(widths[0]), *cells]).rstrip())
        aligned += [f"    {line}" for line in rest]
    return aligned


def _unverified_note() -> str:
    from moco_eval.published import UNVERIFIED_NOTE

    return UNVERIFIED_NOTE


def _as_markdown(numbers: Sequence[PublishedNumber]) -> str:
    names = ["method", "architecture", "pretrain_data", "pretrain_epochs", "protocol", "dataset"]
    names += ["metric", "value", "source"]
    lines = [names, ["---"] * len(names)]
    lines += [[{**each.row, "value": each.text}[name] for name in names] for each in numbers]
    text = "".join(f"| {' | '.join(_escaped(cell) for cell in line)} |\n" for line in lines)
    if not all(each.is_verified for each in numbers):
        text += f"\n{_escaped(_unverified_note())}\n"
    return text


def _escaped(text: str) -> str:
    return text.replace("*", r"\*").replace("|", r"\|")


def _as_csv(numbers: Sequence[PublishedNumber]) -> str:
    """The rows as they stand in the file."""
    from moco_eval.published import columns

    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(each.row for each in numbers)
    return text.getvalue()


def _as_json(numbers: Sequence[PublishedNumber]) -> str:
    """The rows, numbers as numbers, with where this program measures the same."""
    rows = [
        {
            **each.row,
            "number": each.number,
            "std": each.std,
            "verified": each.is_verified,
            "measured_by": [
                {
                    "protocols": address.protocols,
                    "recipes": address.recipes,
                    "dataset": address.datasets[each.dataset],
                    "metric": address.metrics[each.metric],
                    "note": address.note,
                }
                for address in each.addresses
            ],
        }
        for each in numbers
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[PublishedNumber]], str]] = {
    "text": _as_text,
    "md": _as_markdown,
    "csv": _as_csv,
    "json": _as_json,
}
