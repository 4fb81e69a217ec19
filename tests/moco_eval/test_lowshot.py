"""A few labels a class: drawn, or listed; on frozen features, or fine-tuned."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from moco_eval import accuracy, finetune, logistic, lowshot, recipes
from moco_eval.data import label_lists
from moco_eval.data.catalog import ImageData, open_images
from moco_eval.data.sampler import keyed_generator
from moco_eval.data.splits import MultiLabelData
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import DataError, UsageError
from moco_eval.features import of_data
from moco_eval.training.classifier import Classifier, parameter_groups
from moco_eval.training.recipe import Plan


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_images("digits")


@pytest.fixture(scope="module")
def pixels():
    return load_encoder("pixels")


def evaluate(encoder, data, recipe, *, seed=0, work_dir=Path()):
    return lowshot.evaluate(encoder, recipe, data, seed=seed, work_dir=work_dir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """64 training and 40 test images of the digits 0 and 1, as files in class folders."""
    root = tmp_path_factory.mktemp("two")
    for split, images, number in (("train", digits.train, 64), ("val", digits.test, 40)):
        chosen = [i for i, label in enumerate(images.labels) if label < 2][:number]
        for place in chosen:
            path = (
                root / split / f"d{images.labels[place]}" / f"d{images.labels[place]}_{place}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            images.images[place].save(path)
    return root


@pytest.fixture(scope="module")
def two(folder):
    return open_images(f"imagefolder:{folder}")


def names_in(folder):
    return sorted(path.name for path in (folder / "train").rglob("*.png"))


@pytest.fixture
def half(folder, tmp_path):
    """A list of every second training image, in an order of its own."""
    path = tmp_path / "half.txt"
    path.write_text("\n".join(reversed(names_in(folder)[::2])) + "\n")
    return path


def test_so_many_of_each_class_are_taken():
    labels = torch.tensor([0] * 5 + [1] * 7 + [2] * 3)
    chosen = lowshot.take_shots(labels, 3, torch.Generator().manual_seed(0))
    assert labels[chosen].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(chosen.tolist())) == 9


def test_a_class_with_too_few_images_is_refused():
    with pytest.raises(DataError, match="Class 2 has 1 training images of 2 asked"):
        lowshot.take_shots(torch.tensor([0, 0, 1, 1, 2]), 2, torch.Generator())


def test_draws_are_fixed_by_the_seed_and_listed(digits, pixels):
    recipe = replace(lowshot.RECIPES["5-shot"], num_draws=2)
    one, again, other = (evaluate(pixels, digits, recipe, seed=s) for s in (0, 0, 1))
    assert one.metrics == again.metrics
    assert one.details == again.details
    assert one.details["images_by_draw"] != other.details["images_by_draw"]
    assert [len(draw) for draw in one.details["images_by_draw"]] == [50, 50]
    assert one.metrics["top1"] == pytest.approx(sum(one.details["top1_by_draw"]) / 2)


def test_a_draw_is_a_regression_on_its_images_alone(digits, pixels):
    outcome = evaluate(pixels, digits, replace(lowshot.RECIPES["5-shot"], num_draws=1))
    features = of_data(pixels, digits)
    (chosen,) = outcome.details["images_by_draw"]
    assert chosen == lowshot.take_shots(features.train_labels, 5, keyed_generator(0, 0)).tolist()
    scaling = logistic.Scaling.fit(features.train[chosen])
    probe = logistic.fit(scaling(features.train[chosen]), features.train_labels[chosen], c=0.1)
    logits = probe.logits(scaling(features.test))
    assert torch.equal(outcome.drawn["logits"], logits)
    assert outcome.metrics == accuracy.metrics(logits, features.test_labels)
    # One draw has no spread.
    assert "top1_ci95" not in outcome.details


def test_the_confidence_interval_by_hand(digits, pixels, capsys):
    # Mean 80, s.d. 2 (deviations -2, 0, 2: sqrt(8 / 2)), t of 2 degrees of freedom 4.303:
    # 4.303 * 2 / sqrt(3) = 4.968 on either side.
    low, high = lowshot.confidence_interval([78, 80, 82])
    assert (low, high) == (pytest.approx(80 - 4.968, abs=1e-3), pytest.approx(84.968, abs=1e-3))
    oracle = stats.t.interval(0.95, 2, loc=80, scale=stats.sem([78, 80, 82]))
    assert (low, high) == pytest.approx(oracle)
    recipe = replace(lowshot.RECIPES["1-shot"], num_draws=3)
    outcome = evaluate(pixels, digits, recipe)
    expected = lowshot.confidence_interval(outcome.details["top1_by_draw"])
    assert outcome.details["top1_ci95"] == list(expected)
    assert f"95 % confidence interval {expected[0]:.2f} to" in capsys.readouterr().out


def test_what_the_field_reports_of_the_set_comes_first(digits, pixels):
    data = replace(digits, metric="mean_per_class")
    outcome = evaluate(pixels, data, replace(lowshot.RECIPES["1-shot"], num_draws=2))
    assert list(outcome.metrics) == ["mean_per_class", "top1", "top5", "ece"]
    assert outcome.metrics["mean_per_class"] == pytest.approx(
        sum(outcome.details["mean_per_class_by_draw"]) / 2
    )
    assert "mean_per_class_ci95" in outcome.details


def test_a_list_says_which_labels_are_seen(two, folder, half, pixels):
    outcome = evaluate(pixels, two, lowshot.Recipe(subset=str(half), num_draws=1))
    listed = outcome.details["images_listed"]
    assert listed["num_images"] == 32
    assert listed["sha256"] == hashlib.sha256(half.read_bytes()).hexdigest()
    # The labels of the others may say anything.
    named = set(half.read_text().split())
    labels = [
        label if Path(two.train.images.name_of(i)).name in named else 1 - label
        for i, label in enumerate(two.train.labels)
    ]
    assert labels != list(two.train.labels)
    spoiled = replace(two, train=replace(two.train, labels=labels, fingerprint="spoiled"))
    again = evaluate(pixels, spoiled, lowshot.Recipe(subset=str(half), num_draws=1))
    assert torch.equal(again.drawn["logits"], outcome.drawn["logits"])
    assert outcome.metrics["top1"] > 95


def test_a_class_that_the_list_passes_by_is_never_said(two, folder, tmp_path, pixels):
    path = tmp_path / "one.txt"
    path.write_text("\n".join(name for name in names_in(folder) if name.startswith("d0")))
    logits = evaluate(pixels, two, lowshot.Recipe(subset=str(path), num_draws=1)).drawn["logits"]
    assert logits.shape == (40, 2)
    assert logits.argmax(1).tolist() == [0] * 40


def test_names_with_folders_match_the_end_of_a_path(two, folder):
    name = names_in(folder)[0]
    listed = label_lists.LabelList("list", "", (f"d0/{name}",))
    (index,) = label_lists.indices_of(two.train, listed).tolist()
    assert two.train.images.name_of(index).endswith(f"train/d0/{name}")
    with pytest.raises(DataError, match=r"0 are among the 64.* and 1 not at all \(d1/d0_"):
        label_lists.indices_of(two.train, replace(listed, names=(f"d1/{name}",)))


def test_names_of_other_images_are_counted(two, folder):
    names = (*names_in(folder)[:2], *(f"n{i}.JPEG" for i in range(5)))
    with pytest.raises(
        DataError,
        match=r"names 7 images: 2 are among the 64 training images once, 0 several times and 5 not"
        r" at all \(n0\.JPEG, n1\.JPEG, n2\.JPEG \.\.\.\)",
    ):
        label_lists.indices_of(two.train, label_lists.LabelList("list", "", names))


def test_images_without_names_are_refused(digits):
    with pytest.raises(DataError, match=r"these images have none\. Open them as imagefolder:DIR"):
        label_lists.indices_of(digits.train, label_lists.LabelList("list", "", ("a",)))


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.png\nb.png\na.png\n")
    with pytest.raises(DataError, match="names 3 images, 1 of them more than once"):
        label_lists.read_list(str(tmp_path / "list.txt"))


def test_a_list_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match=r"no list 'imagenet-2percent'.*Did you mean 'imagenet-1"):
        label_lists.read_list("imagenet-2percent")


@pytest.fixture
def published(monkeypatch, tmp_path):
    """``imagenet-1percent`` as a short list that lies in a folder instead of the network."""
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "1percent.txt"
    source.write_text("a.JPEG\nb.JPEG\n")
    known = label_lists.PublishedList(
        source.as_uri(), hashlib.sha256(source.read_bytes()).hexdigest(), 2
    )
    monkeypatch.setitem(label_lists.PUBLISHED_LISTS, "imagenet-1percent", known)
    return source


def test_a_published_list_is_fetched_once(published, tmp_path):
    first = label_lists.read_list("imagenet-1percent")
    assert first.names == ("a.JPEG", "b.JPEG")
    published.unlink()
    again = label_lists.read_list("imagenet-1percent")
    assert again.names == first.names
    assert again.source == str(tmp_path / "cache" / "subsets" / "imagenet-1percent.txt")


def test_another_list_than_the_published_one_is_refused(published, tmp_path):
    published.write_text("a.JPEG\nc.JPEG\n")
    with pytest.raises(DataError, match=r"is not the published list: it has the SHA-256 [0-9a-f]"):
        label_lists.read_list("imagenet-1percent")
    assert not (tmp_path / "cache").exists()
    kept = tmp_path / "cache" / "subsets" / "imagenet-1percent.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("c.JPEG\n")
    with pytest.raises(DataError, match=r"cache/subsets/imagenet-1percent\.txt is not the publ"):
        label_lists.read_list("imagenet-1percent")


def test_without_a_network_it_is_said_where_to_put_the_list(published, tmp_path):
    published.unlink()
    with pytest.raises(
        DataError,
        match=r"cannot be fetched from file:.*put it there: .*subsets/"
        r"imagenet-1percent\.txt; or name the file: --set subset=FILE",
    ):
        label_lists.read_list("imagenet-1percent")


LINEAR = [name for name, recipe in lowshot.RECIPES.items() if isinstance(recipe, lowshot.Recipe)]
TUNED = [name for name in lowshot.RECIPES if name not in LINEAR]


@pytest.mark.parametrize("name", LINEAR)
def test_every_linear_recipe_runs_on_64_images(name, two, half, pixels):
    recipe = lowshot.RECIPES[name]
    recipe = replace(recipe, subset=str(half)) if recipe.subset else recipe
    outcome = evaluate(pixels, two, recipe)
    assert outcome.num_test == 40
    assert outcome.metrics["top1"] > 70
    assert name in lowshot.PUBLISHED


@pytest.mark.parametrize("name", TUNED)
def test_every_finetune_recipe_runs_on_64_images(name, two, half, tmp_path, make_encoder):
    # Smaller batches and rates than the papers', which 32 images do not bear.
    recipe = lowshot.RECIPES[name]
    factor = min(recipe.head_lr_factor, 5)
    recipe = replace(recipe, batch_total=16, head_lr_factor=factor, num_draws=1)
    if recipe.subset:
        recipe = replace(recipe, subset=str(half), epochs=10)
    else:
        recipe = replace(recipe, num_steps=20)
    encoder = make_encoder()
    before = encoder.tensor_sha256()
    outcome = evaluate(encoder, two, recipe, work_dir=tmp_path / "work")
    assert outcome.num_test == 40
    assert outcome.metrics["top1"] > 60
    assert encoder.tensor_sha256() == before
    assert not (tmp_path / "work" / "finetune").exists()
    assert recipes.protocol_id("lowshot", recipe) == "lowshot-finetune"
    assert name in lowshot.PUBLISHED


def test_the_head_learns_at_its_own_rate(make_encoder):
    model = Classifier(make_encoder(), 2, seed=0)
    groups = parameter_groups(
        model, weight_decay=0.0, layer_decay=1.0, decay_vectors=True, head_lr_factor=250
    )
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scales.pop(id(model.head.weight)) == scales.pop(id(model.head.bias)) == 250
    assert set(scales.values()) == {1}


def test_swavs_rate_falls_to_a_fifth_twice():
    # 12,800 images are 50 updates an epoch: drops after 12 and 16 of 20 epochs, at 600 and 800.
    plan = Plan(lowshot.RECIPES["swav-1percent"], 12800)
    assert plan.num_steps == 1000
    rates = [plan.lr(step) for step in (0, 599, 600, 799, 800, 999)]
    assert rates == pytest.approx([0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])


def test_finetuning_sees_the_drawn_images_alone(two, tmp_path, monkeypatch, pixels):
    seen = []

    def spy(encoder, recipe, data, indices, *, seed, work_dir, resources):
        seen.append(indices.tolist())
        return torch.eye(2)[torch.tensor(data.test.labels)]

    monkeypatch.setattr(finetune, "fit_and_score", spy)
    recipe = replace(lowshot.RECIPES["5-shot-finetune"], num_draws=2)
    outcome = evaluate(pixels, two, recipe, seed=3, work_dir=tmp_path)
    labels = torch.tensor(two.train.labels)
    assert seen == outcome.details["images_by_draw"]
    assert seen == [
        lowshot.take_shots(labels, 5, keyed_generator(3, draw)).tolist() for draw in (0, 1)
    ]
    assert outcome.metrics["top1"] == 100


def _metrics_on_a_rank(data):
    recipe = replace(lowshot.RECIPES["1-shot"], num_draws=2)
    outcome = evaluate(load_encoder("pixels"), data, recipe)
    return outcome.metrics, outcome.details


def test_the_number_of_ranks_changes_no_number(on_ranks, two):
    assert on_ranks(2, _metrics_on_a_rank, two) == [_metrics_on_a_rank(two)] * 2


def test_images_of_several_classes_are_refused(two, pixels):
    data = MultiLabelData("several", two.classes, two.train, two.test)
    with pytest.raises(DataError, match=r"several has images that show several.*svm"):
        evaluate(pixels, data, lowshot.RECIPES["1-shot"])


def test_impossible_recipes_are_refused():
    with pytest.raises(UsageError, match="Either shots is positive or subset names a list"):
        lowshot.Recipe(shots=0)
    with pytest.raises(UsageError, match="Either shots is positive or subset names a list"):
        lowshot.Recipe(shots=1, subset="imagenet-1percent")
    with pytest.raises(UsageError, match="c must be positive"):
        lowshot.Recipe(shots=1, c=0)
    with pytest.raises(UsageError, match="lowshot takes one lr and one weight_decay"):
        replace(lowshot.RECIPES["5-shot-finetune"], lr=(0.1, 0.2))
