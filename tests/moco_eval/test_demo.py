import json
from dataclasses import replace

import pytest

from moco_eval import demo as demo_module
from moco_eval import store
from moco_eval.cell import _scenes as opened_scenes
from moco_eval.data.catalog import open_images
from moco_eval.errors import DivergedError
from pretrain.recipes import RECIPES
from pretrain.train import Options, train


def test_the_plan_has_every_protocol_for_every_encoder_that_can_be_one():
    cells = demo_module.plan({"random init": "random:resnet10_small", "raw pixels": "pixels"})
    counts = {}
    for cell in cells:
        key = (cell.name, cell.protocol)
        counts[key] = counts.get(key, 0) + 1
    # Three seeds where a run takes seconds, one where it takes more or has no randomness.
    assert counts == {
        ("random init", "linear"): 3,
        ("random init", "lowshot"): 3,
        ("random init", "knn"): 1,
        ("random init", "detect"): 1,
        ("random init", "segment"): 1,
        ("raw pixels", "linear"): 3,
        ("raw pixels", "lowshot"): 3,
        ("raw pixels", "knn"): 1,
    }


@pytest.fixture
def quick_demo(tmp_path, monkeypatch):
    """The demo after its pretraining, with the first seed and two updates of a detector."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = open_images("digits")
    for name in ("mocov2-digits", "supervised-digits"):
        recipe = replace(RECIPES[name], epochs=1, warmup_epochs=0)
        output = tmp_path / "demo" / name
        train(recipe, data, name=name, output=output, seed=0, options=Options())
        (output / "status.json").write_text(json.dumps({"state": "done"}))
    whole = demo_module.plan
    short = ("num_iterations=2", "lr_drops=[]", "precise_bn_batches=1")

    def plan(encoders):
        first = [each for each in whole(encoders) if each.seed == 0]
        return [
            replace(cell, overrides=short, engine="torchvision")
            if cell.protocol in ("detect", "segment")
            else cell
            for cell in first
            if cell.protocol != "linear"
        ]

    monkeypatch.setattr(demo_module, "plan", plan)
    yield tmp_path / "demo"
    # A process keeps what it opened, and these scenes go with the test.
    opened_scenes.cache_clear()


def test_the_demo_leaves_records_tables_and_pictures_and_skips_what_is_done(quick_demo, capsys):
    demo_module.demo(quick_demo)
    first = capsys.readouterr().out
    written, problems = store.read_all(quick_demo / "results")
    assert problems == []
    # Four encoders in lowshot and knn; three, without the pixels, in detect and segment.
    assert len(written) == 4 + 4 + 3 + 3
    for name in ("table.md", "table.tex", "table.csv", "table.html"):
        assert (quick_demo / name).stat().st_size > 200
    # Two updates make a detector that finds nothing: there are worst images and no best ones.
    for name in ("neighbours.png", "worst_images.png"):
        assert (quick_demo / name).stat().st_size > 10_000
    # The table comes last.
    assert first.rstrip().endswith((quick_demo / "table.md").read_text().rstrip())

    demo_module.demo(quick_demo)
    again = capsys.readouterr().out
    # No run ended, as none began.
    assert "[1/" in first
    assert "[1/" not in again
    assert len(store.read_all(quick_demo / "results")[0]) == len(written)


def test_a_pretraining_that_fails_ends_the_demo(tmp_path):
    (tmp_path / "mocov2-digits").write_text("a file where a folder should be")
    with pytest.raises(DivergedError, match="moco-pretrain ended with exit code 74"):
        demo_module.demo(tmp_path)
