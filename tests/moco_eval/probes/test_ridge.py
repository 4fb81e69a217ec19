import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from moco_eval.data import digits
from moco_eval.probes.ridge import decompose


@pytest.fixture(scope="module")
def pixels():
    images, labels = digits.load()
    return torch.tensor(images).flatten(1), torch.tensor(labels)


# More images than features, and fewer: the covariance and the Gram matrix are decomposed.
@pytest.mark.parametrize("num_images", [1000, 40])
@pytest.mark.parametrize("strength", [0.1, 100.0])
def test_scores_equal_scikit_learns_at_the_same_strength(pixels, num_images, strength):
    features, labels = pixels
    parts = decompose(features[:num_images], labels[:num_images], 10)
    ours = parts.solve(strength).logits(features[1000:])
    oracle = Ridge(alpha=strength).fit(features[:num_images], np.eye(10)[labels[:num_images]])
    np.testing.assert_allclose(ours.numpy(), oracle.predict(features[1000:]), atol=1e-7)


def test_strengths_are_relative_to_n_times_the_mean_variance():
    # Two features of variances 1 and 4 over two images: (2 * 1 + 2 * 4) / 2.
    parts = decompose(torch.tensor([[-1.0, -2.0], [1.0, 2.0]]), torch.tensor([0, 1]), 2)
    assert parts.unit == pytest.approx(5)
