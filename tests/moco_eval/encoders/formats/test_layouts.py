"""Every author's file, written and loaded: the right tensors, nothing else, the right input."""

import importlib.util

import pytest
import torch
from layouts import LAYOUTS

from moco_eval.encoders.claims import claim
from moco_eval.encoders.encoder import is_counter
from moco_eval.encoders.formats import FORMATS
from moco_eval.encoders.hints import Hints
from moco_eval.encoders.load import load_encoder
from moco_eval.encoders.reading.reader import read
from moco_eval.errors import CheckpointError, UsageError

# Rows of borrowed or general names: they stand behind the authors' own, whose files they fit too.
GENERAL = {"torchvision", "timm-vit", "lightning"}
# The second of a pair fits the first one's files too, and says less of them.
NEAR = {
    ("openselfsup", "moco"),
    ("mocov3-deit", "mae-encoder"),
    ("lightly-train-distillation", "lightly-train"),
}


def absent(layout):
    missing = [name for name in layout.requires if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


CASES = [
    pytest.param(layout, id=f"{layout.format}-{layout.case}", marks=absent(layout))
    for layout in LAYOUTS
]


def claims(row, file):
    try:
        claim(file, Hints(format=row.name))
    except (CheckpointError, UsageError):
        return False
    return True


@pytest.mark.parametrize("layout", CASES)
def test_a_file_gives_the_right_tensors_and_nothing_else_and_the_right_input(layout, tmp_path):
    written = layout.write(tmp_path)
    encoder = load_encoder(str(written.path), **written.hints)
    manifest = encoder.manifest
    assert (manifest.format, manifest.tower) == (layout.format, written.tower)
    assert (manifest.arch, manifest.input) == (written.arch, written.input)

    ours = {n: t for n, t in encoder.tensors().items() if not is_counter(n)}
    theirs = {n: t for n, t in written.expected.items() if not is_counter(n)}
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name

    # Every key of the container is loaded or dropped, and none is both.
    file = read(written.path)
    container = claim(file, Hints(**written.hints)).tensors
    accounted = [*manifest.loaded, *manifest.dropped]
    assert sorted(accounted) == sorted(container)

    # No other author's row would claim it, wherever it stood.
    others = {row.name for row in FORMATS if not row.asked and claims(row, file)}
    others -= {layout.format, *GENERAL}
    assert {(layout.format, other) for other in others} <= NEAR

    if written.author:
        size = written.input.size
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = written.author(images)
        off = (encoder.features(images) - wanted).abs().max() / wanted.abs().max()
        assert off < 1e-5
