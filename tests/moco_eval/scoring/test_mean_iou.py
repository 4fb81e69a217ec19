import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from moco_eval import distributed
from moco_eval.errors import DataError
from moco_eval.scoring import mean_iou
from moco_eval.scoring.mean_iou import Confusion


def test_scores_of_three_classes_by_hand():
    # Truth 0 0 0 1 1 2, found 0 0 1 1 2 2; the pixel without a class holds one that would show.
    labels = torch.tensor([[0, 0, 0, 1], [1, 2, 255, 255]], dtype=torch.uint8)
    found = torch.tensor([[0, 0, 1, 1], [2, 2, 1, 0]])
    confusion = Confusion(3)
    confusion.add(labels, found)
    scores = confusion.scores(1)
    assert scores.drawn["label_confusion"].tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    # Intersections 2, 1, 1 of unions 3, 3, 2.
    assert scores.drawn["IoU_by_class"] == pytest.approx([200 / 3, 100 / 3, 50])
    assert scores.metrics == pytest.approx(
        {
            "mIoU": 50.0,
            "pixel_accuracy": 400 / 6,
            # Recalls 2/3, 1/2 and 1.
            "mean_class_accuracy": 100 * (2 / 3 + 1 / 2 + 1) / 3,
        }
    )
    assert next(iter(scores.metrics)) == "mIoU"


def test_pixels_are_counted_over_all_images_before_anything_is_divided():
    confusion = Confusion(2)
    # One image of 8 right pixels, one of 1 right and 1 wrong.
    confusion.add(torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64))
    confusion.add(torch.tensor([0, 0]), torch.tensor([0, 1]))
    scores = confusion.scores(2)
    # Class 0: 9 of 10. Class 1 is found once, wrongly: 0 of 1.
    assert scores.metrics["mIoU"] == pytest.approx(45)
    # The mean of the images' own: 100, and of 1/2 and 0.
    assert scores.drawn["mIoU_by_image"] == pytest.approx([100, 25])


def test_a_class_neither_there_nor_found_does_not_count():
    confusion = Confusion(5)
    confusion.add(torch.tensor([0, 0, 3]), torch.tensor([0, 0, 4]))
    scores = confusion.scores(1)
    # 1 for class 0, 0 for 3 (missed) and 4 (found wrongly); 1 and 2 have none.
    assert scores.metrics["mIoU"] == pytest.approx(100 / 3)
    assert np.isnan(scores.drawn["IoU_by_class"]).tolist() == [False, True, True, False, False]
    # Class 4 is not in the truth.
    assert scores.metrics["mean_class_accuracy"] == pytest.approx(50)


def test_an_image_without_any_class_has_no_score_and_counts_nowhere():
    confusion = Confusion(2)
    confusion.add(torch.full((3, 3), 255), torch.ones(3, 3, dtype=torch.int64))
    confusion.add(torch.tensor([[1]]), torch.tensor([[1]]))
    scores = confusion.scores(2)
    assert scores.metrics["mIoU"] == pytest.approx(100)
    assert np.isnan(scores.drawn["mIoU_by_image"]).tolist() == [True, False]


def test_images_without_any_class_have_no_score():
    confusion = Confusion(2)
    confusion.add(torch.tensor([255]), torch.tensor([0]))
    with pytest.raises(DataError, match="No pixel of the 1 images has a class"):
        confusion.scores(1)


@pytest.mark.parametrize("absent", [(), (2,)])
def test_it_is_what_torchmetrics_computes(absent):
    draw = torch.Generator().manual_seed(1)
    present = torch.tensor([number for number in range(6) if number not in absent])
    labels = present[torch.randint(len(present), (4, 40, 30), generator=draw)]
    others = present[torch.randint(len(present), (4, 40, 30), generator=draw)]
    found = torch.where(torch.rand(4, 40, 30, generator=draw) < 0.6, labels, others)
    labels[torch.rand(4, 40, 30, generator=draw) < 0.1] = 255
    confusion = Confusion(6)
    for pair in zip(labels, found, strict=True):
        confusion.add(*pair)
    scores = confusion.scores(4)

    told = {"num_classes": 6, "ignore_index": 255}
    iou = MulticlassJaccardIndex(average="macro", **told)(found, labels)
    assert scores.metrics["mIoU"] == pytest.approx(100 * iou.item(), abs=1e-4)
    by_class = MulticlassJaccardIndex(average="none", **told)(found, labels)
    # Where there is nothing torchmetrics gives 0; its mean leaves it out as ours does.
    assert np.nan_to_num(scores.drawn["IoU_by_class"]) == pytest.approx(100 * by_class, abs=1e-4)
    accuracy = MulticlassAccuracy(average="micro", **told)(found, labels)
    assert scores.metrics["pixel_accuracy"] == pytest.approx(100 * accuracy.item(), abs=1e-4)
    recall = MulticlassAccuracy(average="macro", **told)(found, labels)
    assert scores.metrics["mean_class_accuracy"] == pytest.approx(100 * recall.item(), abs=1e-4)


def test_pixels_of_a_large_set_are_counted_one_by_one():
    # float32 has no 2**25 + 1.
    counts = torch.tensor([[2**25 + 1, 1], [0, 2**25 + 1]])
    accuracy = mean_iou.metrics(counts)["pixel_accuracy"]
    assert accuracy == pytest.approx(100 * (2**26 + 2) / (2**26 + 3), abs=1e-12)
    assert accuracy != 100


def test_a_class_that_there_is_not_is_not_counted_as_another():
    with pytest.raises(AssertionError, match="below 2"):
        mean_iou.count_pixels(torch.tensor([0]), torch.tensor([2]), num_classes=2)
    with pytest.raises(AssertionError, match="below 2"):
        mean_iou.count_pixels(torch.tensor([2]), torch.tensor([0]), num_classes=2)


def three_images_scored():
    """Image n is n + 1 right pixels of class 0 and a wrong one."""
    confusion = Confusion(2)
    for number in range(distributed.rank(), 3, distributed.world_size()):
        found = torch.zeros(number + 2, dtype=torch.int64)
        found[0] = 1
        confusion.add(torch.zeros_like(found), found)
    scores = confusion.scores(3)
    # A second call must not count the first one's sum.
    again = confusion.scores(3)
    counts = [each.drawn["label_confusion"].tolist() for each in (scores, again)]
    return scores.metrics, counts, scores.drawn["mIoU_by_image"].tolist()


def test_ranks_count_each_image_once_and_agree(on_ranks):
    alone = three_images_scored()
    # Half of each image's share of class 0, as class 1 has none: 1/2, 2/3 and 3/4.
    assert alone[2] == pytest.approx([25, 100 / 3, 37.5])
    # 6 of 9 pixels.
    assert alone[0]["pixel_accuracy"] == pytest.approx(200 / 3)
    assert alone[1] == [[[6, 3], [0, 0]]] * 2
    assert on_ranks(2, three_images_scored) == [alone, alone]
