"""The committed tables are what the committed records give."""

import subprocess
import sys
from pathlib import Path

import pytest

from moco_eval import store

ROOT = Path(__file__).parent.parent


def test_every_committed_record_is_whole():
    found, problems = store.read_all(ROOT / "results")
    assert problems == []
    assert len(found) >= 34


@pytest.mark.parametrize("tool", ["render_results.py", "render_formats.py"])
def test_the_tables_regenerate_to_the_byte(tool):
    command = [sys.executable, f"tools/{tool}", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
