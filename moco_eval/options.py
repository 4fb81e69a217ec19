"""What the two command lines have in common: how help looks, and options that mean the same."""

from __future__ import annotations

import argparse
import os

from jsonargparse import ArgumentParser, DefaultHelpFormatter


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with the examples as they were written."""


def command_parser(program: str, description: str, epilog: str = "") -> ArgumentParser:
    """A parser with ``-v``, whose help ends in ``epilog`` as it stands."""
    # Threads that wait for each other without spinning: on a busy machine a step is then three
    # times as fast, on an idle one as fast. OpenMP reads this when torch is imported, hence here.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parser = ArgumentParser(
        prog=program, description=description, epilog=epilog, formatter_class=_Formatter
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show a traceback with an error"
    )
    return parser


def add_run_options(parser: ArgumentParser) -> None:
    """The options of a command that carries out a recipe: ``--set``, ``--seed`` ..."""
    parser.add_argument("--config", action="config", help="a YAML file of these options")
    parser.add_argument(
        "--set",
        action="append",
        type=str,
        default=[],
        metavar="KEY=VALUE",
        help="deviate from the recipe; may be repeated; is recorded and marked in tables",
    )
    parser.add_argument("--seed", type=int, default=0, help="what every random draw is keyed by")
    parser.add_argument(
        "--device", type=str, default="auto", help="cpu, cuda, or auto: a GPU if there is one"
    )
