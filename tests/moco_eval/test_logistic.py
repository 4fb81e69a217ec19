import pytest
import torch
from sklearn.linear_model import LogisticRegression

from moco_eval import logistic
from moco_eval.data import digits


@pytest.fixture(scope="module")
def pixels():
    images, labels = digits.load()
    return torch.tensor(images).flatten(1) / 16, torch.tensor(labels)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_labels_equal_scikit_learns_at_the_same_c(pixels, c):
    features, labels = pixels
    ours = logistic.fit(features[:1000], labels[:1000], c=c).logits(features[1000:]).argmax(1)
    oracle = LogisticRegression(C=c, max_iter=5000, tol=1e-8)
    oracle.fit(features[:1000].numpy(), labels[:1000].numpy())
    assert (ours.numpy() != oracle.predict(features[1000:].numpy())).sum() == 0


def test_a_start_changes_the_way_and_not_the_end(pixels):
    features, labels = pixels
    cold = logistic.fit(features[:300], labels[:300], c=1.0)
    start = logistic.fit(features[:300], labels[:300], c=0.01)
    warm = logistic.fit(features[:300], labels[:300], c=1.0, start=start)
    torch.testing.assert_close(cold.weight, warm.weight, atol=1e-3, rtol=0)


def test_scaling_by_hand():
    # Feature 0 is 1 and 3: mean 2, s.d. 1. Feature 1 never varies: it is only centred.
    scaling = logistic.Scaling.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert scaling(torch.tensor([[4.0, 6.0]])).tolist() == [[2.0, 1.0]]


def test_accuracy_by_hand():
    # Logits are the features themselves: rows 0 and 2 hit, row 1 misses.
    probe = logistic.Probe(torch.eye(2).double(), torch.zeros(2).double())
    features = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
    assert logistic.accuracy(probe, features, torch.tensor([0, 1, 1])) == pytest.approx(200 / 3)


def test_regressions_of_several_classes_are_scikit_learns_one_by_one(pixels):
    features, classes = pixels
    labels = torch.stack([classes == digit for digit in range(3)], dim=1).long()
    # Every fifth image is difficult for digit 0, whatever it shows.
    labels[::5, 0] = -1
    probe = logistic.fit(features[:500], labels[:500], c=1.0)
    ours = probe.logits(features[500:]) > 0
    for digit in range(3):
        judged = labels[:500, digit] >= 0
        # A fit to the sum over 500 images is one over fewer: those left out cost nothing.
        oracle = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8)
        oracle.fit(features[:500][judged].numpy(), labels[:500, digit][judged].numpy())
        found = oracle.predict(features[500:].numpy())
        assert (ours[:, digit].numpy() != found).sum() == 0
        assert probe.bias[digit].item() == pytest.approx(oracle.intercept_[0], abs=1e-3)
