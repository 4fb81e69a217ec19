"""``moco-eval run``: a suite, which is encoders x protocols x seeds."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from moco_eval.suite import plan


def add_options(parser: ArgumentParser) -> None:
    """The options of ``moco-eval run``."""
    add = parser.add_argument
    add("suite", type=str, metavar="SUITE", help="a TOML file, or quick, moco-paper or digits")


def run(arguments: Namespace) -> None:
    """Run what the suite has not recorded yet."""
    suite = plan.read(plan.find(arguments.suite))
    for run in suite.runs:
        rows = [encoder.name for encoder in suite.encoders if run.takes(encoder.name)]
        print(f"{run.protocol} {run.recipe} on {run.data}, seeds {run.seeds}: {', '.join(rows)}")
