"""``moco-eval published``: search the numbers that papers published."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = 'example:\n  moco-eval published "MoCo v2" voc_det_c4_24k'
    parser.add_argument("words", type=str, nargs="+", help="every word must occur in a row")


def run(arguments: Namespace) -> None:
    """Print the rows that were found."""
    from moco_eval.published import search

    print(search(arguments.words).to_string(index=False))
