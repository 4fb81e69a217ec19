import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from moco_eval import knn
from moco_eval.data import digits
from moco_eval.data.catalog import Split, open_images
from moco_eval.data.splits import MultiLabelData
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import CheckpointError, DataError, UsageError
from pretrain.moco import MoCo


def evaluate(encoder, recipe, data):
    return knn.evaluate(encoder, recipe, data, seed=0, work_dir=Path())


@pytest.fixture(scope="module")
def pixels():
    return load_encoder("pixels")


@pytest.fixture(scope="module")
def few():
    """64 training and 40 test images."""
    data = open_images("digits")
    parts = [
        Split(part.images[:number], part.labels[:number], f"first {number}")
        for part, number in ((data.train, 64), (data.test, 40))
    ]
    return replace(data, train=parts[0], test=parts[1])


def test_the_vote_by_hand():
    # Unit vectors at 0, 60, 70 and 180 degrees; the query lies at 0. k = 1: class 0 alone.
    # k = 3, temperature 1: class 0 gets e^1 = 2.72, class 1 e^0.5 + e^0.342 = 1.65 + 1.41 = 3.06.
    # k = 3, temperature 0.1: class 0 gets e^10 = 22026, class 1 e^5 + e^3.42 = 179.
    angles = torch.tensor([0.0, 60.0, 70.0, 180.0]) * math.pi / 180
    bank = torch.stack([angles.cos(), angles.sin()], 1)
    labels, query = torch.tensor([0, 1, 1, 0]), torch.tensor([[5.0, 0.0]])
    warm = knn.classify(bank, labels, query, ks=[1, 3], temperature=1.0)
    cold = knn.classify(bank, labels, query, ks=[3], temperature=0.1)
    assert (warm[1].item(), warm[3].item(), cold[3].item()) == (0, 1, 0)


def test_no_temperature_is_too_small():
    # e^(1 / 0.001) is more than a float can hold; the nearest alone counts.
    bank, labels = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.9, 0.1]]), torch.tensor([2, 1, 1])
    votes = knn.classify(bank, labels, torch.tensor([[1.0, 0.0]]), ks=[3], temperature=0.001)
    assert votes[3].tolist() == [2]


def test_shares_of_the_votes_by_hand():
    # Temperature 0.5: e^(0.8 / 0.5), e^(0.3 / 0.5), e^0 = 4.953, 1.822, 1, of 7.775 together.
    # Classes 2, 0, 2: 1.822 / 7.775 = 0.2344 for class 0, 0.7656 for class 2. Plain: 1/3, 2/3.
    similarity, voters = torch.tensor([[0.8, 0.3, 0.0]]).double(), torch.tensor([[2, 0, 2]])
    recipe = knn.Recipe(k=3, temperature=0.5)
    shares = knn._vote_shares(similarity, voters, recipe, 3)
    assert shares[0].tolist() == pytest.approx([0.2344, 0, 0.7656], abs=1e-4)
    shares = knn._vote_shares(similarity, voters, replace(recipe, vote="plain"), 3)
    assert shares[0].tolist() == pytest.approx([1 / 3, 0, 2 / 3])


def test_of_classes_with_equal_votes_the_first_wins():
    # Classes 2 and 1 have two votes each, and scikit-learn says 1.
    shares = knn._vote_shares(
        torch.tensor([[0.9, 0.8, 0.7, 0.6]]),
        torch.tensor([[2, 1, 2, 1]]),
        knn.Recipe(k=4, vote="plain"),
        3,
    )
    assert shares.argmax(1).item() == 1


def test_the_length_of_a_feature_does_not_matter():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1e9]])
    votes = knn.classify(
        bank, torch.tensor([0, 1]), torch.tensor([[3.0, 1.0]]), ks=[1], temperature=1
    )
    assert votes[1].tolist() == [0]


@pytest.mark.parametrize("vote", ["temperature", "plain"])
@pytest.mark.parametrize("k", [1, 5, 10, 20, 200])
def test_predictions_equal_scikit_learns(k, vote, pixels):
    data = open_images("digits")
    outcome = evaluate(pixels, knn.Recipe(k=k, vote=vote), data)
    images, labels = digits.load()
    train, test = digits.digit_split()
    # As images have them: 16 shades, rounded to 255.
    features = np.round(images.reshape(len(images), -1) * 255 / 16).astype(np.float32) / 255

    def weight(distance):  # scikit-learn's cosine distance is 1 - similarity
        return np.exp((1 - distance) / 0.07)

    oracle = KNeighborsClassifier(
        k, metric="cosine", weights=weight if vote == "temperature" else "uniform"
    )
    oracle.fit(features[train], labels[train])
    ours = outcome.drawn["logits"].argmax(1).numpy()
    assert (ours != oracle.predict(features[test])).sum() == 0
    hits = (ours == labels[test]).mean()
    assert outcome.metrics["top1"] == pytest.approx(100 * hits)


def test_several_k_are_what_each_alone_is(pixels):
    data = open_images("digits")
    together = evaluate(pixels, knn.RECIPES["knn-20"], data).metrics
    for k in (1, 5, 10, 200):
        alone = evaluate(pixels, knn.Recipe(k=k), data).metrics["top1"]
        assert together[f"top1_k{k}"] == alone


def test_neighbours_come_nearest_first():
    bank = torch.tensor([[0.0, 1.0], [1.0, 0.1], [1.0, 0.0]])
    assert knn.neighbours(bank, torch.tensor([[1.0, 0.0]]), 3).tolist() == [[2, 1, 0]]


def test_raw_pixels_of_the_digits_reach_what_they_always_did(pixels):
    outcome = evaluate(pixels, knn.RECIPES["knn-20"], open_images("digits"))
    assert outcome.num_test == 360
    # scikit-learn's classifier with this vote on the same split: 354 of 360.
    assert outcome.metrics["top1"] == pytest.approx(100 * 354 / 360)


def test_what_the_field_reports_of_the_set_comes_first(pixels, few):
    assert next(iter(evaluate(pixels, knn.Recipe(k=5), few).metrics)) == "top1"
    by_class = replace(few, metric="mean_per_class")
    metrics = evaluate(pixels, knn.Recipe(k=5, other_k=(1,)), by_class).metrics
    assert list(metrics) == ["mean_per_class", "top1", "ece", "top1_k1"]


def test_pictures_get_what_they_are_made_of(pixels, few):
    drawn = evaluate(pixels, knn.Recipe(k=3, other_k=(20,)), few).drawn
    assert drawn["labels"].tolist() == few.test.labels
    assert drawn["neighbours"].shape == (40, 5)
    assert drawn["test_features"].shape == (40, 64)
    # Shares of three votes: their logarithms are a softmax's logits.
    assert drawn["logits"].exp().sum(1).tolist() == pytest.approx([1] * 40)


@pytest.fixture
def mocov2(tmp_path):
    """A checkpoint of MoCo v2, before it has learnt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MoCo("resnet10_small", dim=16, queue_size=8, mlp=True)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"arch": "resnet10_small", "state_dict": state}, tmp_path / "checkpoint.pth.tar")
    return load_encoder(str(tmp_path / "checkpoint.pth.tar"), input="size=32")


@pytest.mark.parametrize("name", knn.RECIPES)
def test_every_recipe_runs_on_64_images(name, few, mocov2):
    # No more than 64 can vote there: --set k=64.
    recipe = knn.RECIPES[name]
    outcome = evaluate(mocov2, replace(recipe, k=min(recipe.k, 64)), few)
    assert outcome.num_test == 40
    is_projected = recipe.feature == "projector"
    assert outcome.details["feature"] == ("projector" if is_projected else "pooled")
    assert outcome.details["feature_dim"] == (16 if is_projected else 128)
    assert ("Linear 128-16" in outcome.details.get("projector", "")) == is_projected
    assert name in knn.PUBLISHED


def test_a_projector_is_asked_for_before_features_are_computed(few):
    with pytest.raises(CheckpointError, match="No projector is known of pixels"):
        evaluate(load_encoder("pixels"), knn.Recipe(k=1, feature="projector"), few)


def _metrics_on_a_rank(data):
    outcome = evaluate(load_encoder("pixels"), knn.Recipe(k=5, other_k=(1, 20)), data)
    return outcome.metrics, outcome.num_test


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_number_of_ranks_changes_no_metric(on_ranks, few, num_ranks):
    alone = _metrics_on_a_rank(few)
    assert on_ranks(num_ranks, _metrics_on_a_rank, few) == [alone] * num_ranks


def test_more_neighbours_than_images_are_refused(pixels):
    recipe = replace(knn.RECIPES["knn-20"], k=5000)
    with pytest.raises(UsageError, match="k = 5000 is more than the 1437 training images"):
        evaluate(pixels, recipe, open_images("digits"))


def test_impossible_recipes_are_refused():
    with pytest.raises(UsageError, match="k and temperature must be positive"):
        knn.Recipe(k=5, other_k=(0,))
    with pytest.raises(UsageError, match="k and temperature must be positive"):
        knn.Recipe(k=5, temperature=0)
    with pytest.raises(UsageError, match="There is no feature 'projektor'"):
        knn.Recipe(k=5, feature="projektor")


def test_images_of_several_classes_are_refused(pixels, few):
    data = MultiLabelData("several", few.classes, few.train, few.test)
    with pytest.raises(DataError, match=r"several has images that show several classes.*svm"):
        evaluate(pixels, knn.Recipe(k=1), data)
