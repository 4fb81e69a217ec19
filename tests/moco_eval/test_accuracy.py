"""The numbers that every classification protocol reports."""

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.classification import MulticlassCalibrationError

from moco_eval import accuracy

# Images 0 and 1 are of class 0, image 2 of class 1; the scores say 0, 1 and 1.
LOGITS = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 0, 1])


def scores(*, num_images=300, num_classes=7, sureness=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = sureness * torch.randn(num_images, num_classes, generator=generator)
    labels = torch.randint(0, num_classes, (num_images,), generator=generator)
    logits[torch.arange(num_images), labels] += 2
    return logits, labels


def test_metrics_by_hand():
    found = accuracy.metrics(LOGITS, LABELS)
    assert found["top1"] == pytest.approx(200 / 3)
    # Class 0 is found in half of its images, class 1 in all: their mean.
    assert found["mean_per_class"] == pytest.approx(75)
    # There are two classes, and each is among the first five.
    assert found["top5"] == 100


def test_a_class_of_which_the_test_set_has_no_image_does_not_count():
    # Class 2 is predicted for one image of class 0, and has none of its own.
    recalls = accuracy.recall_by_class(torch.tensor([0, 2, 1]), LABELS)
    assert recalls[:2].tolist() == [0.5, 1.0]
    assert math.isnan(recalls[2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 2, 1])).float()
    assert accuracy.metrics(logits, LABELS)["mean_per_class"] == pytest.approx(75)


def test_mean_per_class_is_scikit_learns_balanced_accuracy():
    logits, labels = scores()
    # Unbalanced, so that it differs from top-1.
    logits, labels = logits[labels > labels.roll(1) - 3], labels[labels > labels.roll(1) - 3]
    found = accuracy.metrics(logits, labels)
    oracle = balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    assert found["mean_per_class"] == pytest.approx(100 * oracle)
    assert found["mean_per_class"] != pytest.approx(found["top1"], abs=0.1)


@pytest.mark.parametrize("sureness", [0.1, 1.0, 10.0])
def test_calibration_error_is_torchmetrics(sureness):
    logits, _ = scores(sureness=sureness)
    # Every second answer is right, however sure it is: too sure in some bins and not in others.
    labels = (logits.argmax(1) + torch.arange(len(logits)) % 2) % 7
    oracle = MulticlassCalibrationError(num_classes=7, n_bins=15, norm="l1")
    expected = 100 * oracle(logits.double().softmax(1), labels).item()
    assert accuracy.metrics(logits, labels)["ece"] == pytest.approx(expected, abs=1e-4)


def test_calibration_error_by_hand():
    # Two answers at 0.9, of which one is right, and two at 0.6, both right:
    # half of the images are off by 0.4 and half by 0.4.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    error = accuracy.calibration_error(probabilities, torch.tensor([0, 1, 0, 0]))
    assert error == pytest.approx(40)


def test_the_metric_of_the_field_comes_first():
    found = accuracy.primary_first({"top1": 1.0, "mean_per_class": 2.0}, "mean_per_class")
    assert found == {"top1": 1.0, "mean_per_class": 2.0}
    assert list(found) == ["mean_per_class", "top1"]


def test_eleven_point_precision_by_hand():
    # Ranked, the images are: shown, not, shown, not. The precisions are 1, 1/2, 2/3 and 1/2, the
    # recalls 1/2, 1/2, 1 and 1. The recalls 0 to 0.5 (six of them) are reached with precision 1,
    # those of 0.6 to 1 (five) with 2/3.
    ranks = torch.tensor([0.9, 0.8, 0.7, 0.1])
    shown = torch.tensor([True, False, True, False])
    found = accuracy.eleven_point_precision(ranks, shown)
    assert found == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_what_is_difficult_for_a_class_does_not_count_in_its_precision():
    # Class 0: without the difficult image, which is ranked first, all is in order.
    # Class 1: the only image that shows it is ranked third of three: 1/3 at every recall.
    # Class 2: nothing shows it, and it is left out of the mean.
    labels = torch.tensor([[-1, 0, 0], [1, 0, 0], [0, 1, 0]])
    ranks = torch.tensor([[9.0, 3.0, 1.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    found = accuracy.mean_average_precision(ranks, labels)
    assert found == pytest.approx(100 * (1 + 1 / 3) / 2)
