from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moco_eval.data.splits import TrainingImages, TrainingSplit
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import UsageError
from moco_eval.training.metrics import read_metrics
from pretrain.recipes import RECIPES, Recipe
from pretrain.train import Options, train

IMAGES = np.random.RandomState(0).randint(0, 256, (16, 64, 64, 3), dtype=np.uint8)


def smallest(recipe: Recipe) -> Recipe:
    """Two steps of eight small images; encoder, views, optimizer and schedules stay.

    In single precision: a CPU takes a minute for a ViT-B in half.
    """
    return replace(
        recipe,
        image_size=min(recipe.image_size, 64),
        epochs=1,
        batch_total=8,
        queue_size=16,
        mlp_dim=32,
        warmup_epochs=min(recipe.warmup_epochs, 1),
        num_ranks=min(recipe.num_ranks, 2),
        precision="fp32",
    )


def two_steps(name, output, **changes):
    recipe = replace(smallest(RECIPES[name]), **changes)
    labels = list(range(16)) if recipe.method == "supervised" else None
    images = TrainingSplit([Image.fromarray(pixels) for pixels in IMAGES], labels, "noise")
    data = TrainingImages("noise", tuple("abcdefghijklmnop" if labels else ""), images, None)
    settings = {"name": name, "seed": 0, "options": Options()}
    return train(recipe, data, output=output, **settings)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_and_takes_two_steps(name, tmp_path):
    path = two_steps(name, tmp_path)
    losses = [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    # What it left is an encoder that the evaluation takes, tensor for tensor.
    assert load_encoder(str(path)).manifest.num_loaded > 0


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_two_steps_on_two_ranks(name, tmp_path, on_ranks):
    on_ranks(2, two_steps, name, tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("engine", ["fast", "device"])
def test_every_engine_of_views_trains_on_nearly_the_same_pictures(tmp_path, engine):
    losses = []
    for name in ("reference", engine):
        two_steps("mocov2", tmp_path / name, view_engine=name, arch="resnet18")
        losses.append(read_metrics(tmp_path / name / "metrics.jsonl")[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_says_where_it_is_from_and_what_it_reached(recipe):
    assert recipe.source
    assert recipe.published


def test_the_learning_rate_scales_with_the_batch():
    # Goyal et al.: 0.03 for 256 images is 0.06 for 512.
    recipe = replace(RECIPES["mocov2"], batch_total=512)
    assert recipe.peak_lr == 0.06
    assert recipe.scaling_rule == "0.03 x 512/256 = 0.06"


def test_negatives_are_the_queue_or_the_rest_of_the_batch():
    digits = RECIPES["mocov2-digits"]
    assert digits.num_negatives == 1024
    assert replace(digits, mechanism="end-to-end").num_negatives == 63
    assert RECIPES["mocov3-vit-small"].num_negatives == 4095


def test_a_queue_that_no_batch_divides_is_refused_with_the_nearest():
    # 1000 // 64 = 15 batches fit, 15 * 64 = 960.
    with pytest.raises(UsageError, match=r"queue_size = 1000 .* batch_total = 64.*queue_size=960"):
        replace(RECIPES["mocov2-digits"], queue_size=1000)


def test_a_batch_that_the_ranks_do_not_divide_is_refused():
    with pytest.raises(UsageError, match="cannot be cut into num_ranks = 3 equal groups"):
        replace(RECIPES["mocov2-digits"], num_ranks=3)


def test_ranks_are_shared_out_among_processes_or_refused():
    # Eight ranks are 8, 4 and 1 on 1, 2 and 8 processes; v3 shares out its batch of 4096.
    shares = [RECIPES["mocov2"].virtual_ranks(num) for num in (1, 2, 8)]
    assert shares == [8, 4, 1]
    RECIPES["mocov3-resnet50"].virtual_ranks(64)
    with pytest.raises(UsageError, match="num_ranks = 8 cannot be shared out equally among 3"):
        RECIPES["mocov2"].virtual_ranks(3)
    with pytest.raises(UsageError, match=r"batch_total = 4096 cannot be shared out .* among 3"):
        RECIPES["mocov3-resnet50"].virtual_ranks(3)


def test_a_mechanism_of_v1_is_refused_for_v3():
    with pytest.raises(UsageError, match="mechanism=memory-bank is for MoCo v1 and v2"):
        replace(RECIPES["mocov3-resnet50"], mechanism="memory-bank")


@pytest.mark.parametrize("field", ["epochs", "batch_total", "dim", "queue_size"])
def test_zero_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} must be at least 1, found 0"):
        replace(RECIPES["mocov2"], **{field: 0})


def test_v2_differs_from_v1_in_what_its_paper_names():
    # MoCo v2 (arXiv:2003.04297): MLP head, stronger augmentation, cosine schedule, tau 0.2.
    v1, v2 = RECIPES["mocov1"].numbers(), RECIPES["mocov2"].numbers()
    differing = {key for key in v1 if v1[key] != v2[key]}
    assert differing == {"mlp", "views", "schedule", "lr_drops", "temperature"}
