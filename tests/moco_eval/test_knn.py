import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from moco_eval import knn
from moco_eval.data import digits
from moco_eval.data.catalog import open_images
from moco_eval.encoders.load import load_encoder
from moco_eval.errors import UsageError


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


def test_the_length_of_a_feature_does_not_matter():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1e9]])
    votes = knn.classify(
        bank, torch.tensor([0, 1]), torch.tensor([[3.0, 1.0]]), ks=[1], temperature=1
    )
    assert votes[1].tolist() == [0]


@pytest.mark.parametrize("k", [1, 5, 20, 200])
def test_predictions_equal_scikit_learns(k):
    images, labels = digits.load()
    features = images.reshape(len(images), -1).astype(np.float32)

    def weight(distance):  # scikit-learn's cosine distance is 1 - similarity
        return np.exp((1 - distance) / 0.07)

    oracle = KNeighborsClassifier(k, metric="cosine", weights=weight)
    oracle.fit(features[:1400], labels[:1400])
    ours = knn.classify(
        torch.tensor(features[:1400]),
        torch.tensor(labels[:1400]),
        torch.tensor(features[1400:]),
        ks=[k, 7],
        temperature=0.07,
    )
    assert (ours[k].numpy() != oracle.predict(features[1400:])).sum() == 0


def test_neighbours_come_nearest_first():
    bank = torch.tensor([[0.0, 1.0], [1.0, 0.1], [1.0, 0.0]])
    assert knn.neighbours(bank, torch.tensor([[1.0, 0.0]]), 3).tolist() == [[2, 1, 0]]


def test_raw_pixels_of_the_digits_reach_what_they_always_did():
    outcome = knn.evaluate(
        load_encoder("pixels"),
        knn.RECIPES["knn-20"],
        open_images("digits"),
        seed=0,
        work_dir=Path(),
    )
    assert outcome.num_test == 360
    # scikit-learn's classifier with this vote on the same split: 354 of 360.
    assert outcome.metrics["top1"] == pytest.approx(100 * 354 / 360)


def test_more_neighbours_than_images_are_refused():
    recipe = replace(knn.RECIPES["knn-20"], k=5000)
    with pytest.raises(UsageError, match="k = 5000 is more than the 1437 training images"):
        knn.evaluate(load_encoder("pixels"), recipe, open_images("digits"), seed=0, work_dir=Path())
