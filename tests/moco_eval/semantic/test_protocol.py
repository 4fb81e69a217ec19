"""Semantic segmentation as a run: every recipe, its scores, and what it leaves to draw."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval import recipes, semantic
from moco_eval.data.semantic import SemanticData, SemanticSplit, open_masks
from moco_eval.errors import CheckpointError, PreemptedError, UsageError
from moco_eval.records import Outcome
from moco_eval.semantic import inference, protocol
from moco_eval.semantic.model import Segmenter
from moco_eval.training.signals import StopRequest

VIT = "timm:vit_tiny_patch16_224:img_size=32,patch_size=8,depth=1,embed_dim=24,num_heads=1"


def run(encoder, recipe, data, folder, **more) -> Outcome:
    return semantic.evaluate(encoder, recipe, data, seed=0, work_dir=folder, **more)


def test_a_recipe_names_its_source_and_what_was_published():
    assert set(semantic.PUBLISHED) == set(semantic.RECIPES)
    assert semantic.DEFAULT_RECIPE in semantic.RECIPES
    ids = {name: recipes.protocol_id("segment", each) for name, each in semantic.RECIPES.items()}
    assert ids["voc-aug-fcn"] == ids["digits-fcn"] == "segment-semantic"
    assert ids["voc-aug-linear"] == ids["digits-linear"] == "segment-semantic-linear"
    # 70% and 90% of 30k and of 90k.
    assert semantic.RECIPES["voc-aug-fcn"].lr_drops == (21_000, 27_000)
    assert semantic.RECIPES["cityscapes-fcn"].lr_drops == (63_000, 81_000)
    assert "mIoU 72.5" in semantic.PUBLISHED["voc-aug-fcn"]
    assert "mIoU 75.3" in semantic.PUBLISHED["cityscapes-fcn"]
    for recipe in semantic.RECIPES.values():
        assert recipe.lr_drops[-1] < recipe.num_iterations


@pytest.mark.parametrize("name", list(semantic.RECIPES))
@pytest.mark.parametrize("arch", ["resnet10_small", VIT])
def test_every_recipe_takes_two_updates_and_judges_all_pixels(
    name, arch, own_data, few_updates, make_encoder, tmp_path
):
    recipe = few_updates(name, num_iterations=2, lr_drops=(1,))
    encoder = make_encoder(arch)
    before = encoder.tensor_sha256()
    outcome = run(encoder, recipe, own_data, tmp_path / "run")
    assert encoder.tensor_sha256() == before
    assert list(outcome.metrics)[:2] == ["mIoU", "pixel_accuracy"]
    assert all(0 <= value <= 100 for value in outcome.metrics.values())
    assert outcome.num_test == 3
    drawn = outcome.drawn
    # Three test images of 40x30 pixels whose first row has no class.
    assert drawn["label_confusion"].sum() == 3 * 40 * 29
    assert drawn["label_confusion"].shape == (3, 3)
    assert drawn["IoU_by_class"].shape == (3,)
    assert drawn["mIoU_by_image"].shape == (3,)


def test_the_worst_and_the_best_images_are_shown(own_data, few_updates, make_encoder, tmp_path):
    outcome = run(make_encoder(), few_updates(), own_data, tmp_path / "run")
    worst, best = outcome.drawn["predicted_worst"], outcome.drawn["predicted_best"]
    by_image = outcome.drawn["mIoU_by_image"]
    shown = [index for index, _ in (*worst, *best)]
    assert sorted(shown) == [0, 1, 2]
    assert worst
    assert by_image[worst[0][0]] == by_image.min()
    # The maps are those that were judged: together they are right as often as all pixels were.
    right = []
    for index, labels in (*worst, *best):
        assert (labels.shape, labels.dtype) == ((30, 40), np.uint8)
        truth = own_data.test.pair(index)[1]
        right.append((labels == truth)[truth != 255])
    counted = outcome.drawn["label_confusion"]
    assert np.concatenate(right).mean() == pytest.approx(counted.trace() / counted.sum())
    # The trained network is kept, its checkpoints are not.
    assert (tmp_path / "run" / "model.pth").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_squares_are_learnt_in_a_few_updates(own_data, few_updates, make_encoder, tmp_path):
    recipe = few_updates(
        num_iterations=60,
        optimizer="sgd",
        lr=0.1,
        lr_drops=(48,),
        scales=(1.0, 1.0),
        head_dilation=1,
        head_channels=64,
    )
    outcome = run(make_encoder(), recipe, own_data, tmp_path / "run")
    # All ground would be 20.
    assert outcome.metrics["mIoU"] > 50


def test_the_seed_decides_everything(own_data, few_updates, make_encoder, tmp_path):
    first, again = (
        run(make_encoder(), few_updates(), own_data, tmp_path / str(number)) for number in (0, 1)
    )
    assert first.metrics == again.metrics
    assert np.array_equal(first.drawn["label_confusion"], again.drawn["label_confusion"])


def test_classes_that_are_neither_there_nor_found_do_not_count(own_data, make_encoder, few_updates):
    model = Segmenter(make_encoder(), few_updates(), num_classes=5, seed=0)
    torch.nn.init.zeros_(model.head[-1].weight)
    model.head[-1].bias.data = torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0])
    labels = np.zeros((30, 40), dtype=np.uint8)
    labels[:, 10:] = 1
    labels[:, 20:] = 255

    class Item:
        name = "one"

        def image(self):
            return Image.new("RGB", (40, 30))

        def labels(self):
            return labels

    scores = inference.judge(model, SemanticSplit("one", (Item(),)))
    # All is found to be class 1: half of the 600 pixels that count. Class 0 has an IoU of 0, class
    # 1 of a half; the other three are left out.
    assert scores.metrics["mIoU"] == pytest.approx(25)
    assert scores.metrics["pixel_accuracy"] == pytest.approx(50)
    assert scores.drawn["mIoU_by_image"].tolist() == [25]


def judged_on_rank(encoder, recipe, data):
    model = Segmenter(encoder, recipe, num_classes=3, seed=0)
    scores = inference.judge(model, data.test)
    return scores.metrics, scores.drawn["mIoU_by_image"].tolist()


def test_each_image_is_judged_once_on_any_number_of_processes(
    on_ranks, own_data, make_encoder, few_updates
):
    alone = judged_on_rank(make_encoder(), few_updates(), own_data)
    # Three images for two and for four processes.
    for world_size in (2, 4):
        for told in on_ranks(world_size, judged_on_rank, make_encoder(), few_updates(), own_data):
            assert told == alone


def evaluated_on_rank(encoder, recipe, data, folder):
    return run(encoder, recipe, data, folder).metrics


def test_two_processes_train_as_one_but_for_rounding(
    on_ranks, own_data, make_encoder, few_updates, tmp_path
):
    recipe = few_updates(reference_world_size=0)
    alone = run(make_encoder(), recipe, own_data, tmp_path / "one").metrics
    for told in on_ranks(2, evaluated_on_rank, make_encoder(), recipe, own_data, tmp_path / "two"):
        assert told == pytest.approx(alone, abs=0.5)


def test_a_stopped_run_ends_as_if_it_had_not_been(
    own_data, few_updates, make_encoder, tmp_path, monkeypatch
):
    whole = run(make_encoder(), few_updates(), own_data, tmp_path / "whole")
    forward = Segmenter.forward
    calls = []

    def stopped(self, batch):
        calls.append(1)
        if len(calls) == 2:
            requests[-1].reason = "SIGTERM"
        return forward(self, batch)

    requests = []
    begin = StopRequest.__init__

    def noted(self):
        begin(self)
        requests.append(self)

    monkeypatch.setattr(StopRequest, "__init__", noted)
    monkeypatch.setattr(Segmenter, "forward", stopped)
    with pytest.raises(PreemptedError):
        run(make_encoder(), few_updates(), own_data, tmp_path / "stopped")
    assert len(calls) == 2
    again = run(make_encoder(), few_updates(), own_data, tmp_path / "stopped")
    # Two of four updates were left.
    assert len(calls) == 4
    assert again.metrics == whole.metrics
    assert np.array_equal(again.drawn["label_confusion"], whole.drawn["label_confusion"])


def test_a_learning_rate_is_chosen_on_training_images(
    own_data, few_updates, make_encoder, tmp_path, monkeypatch
):
    seen = []
    judge = protocol.judge

    def noted(model, split, **more):
        seen.append([item.path.name for item in split.items])
        return judge(model, split, **more)

    monkeypatch.setattr(protocol, "judge", noted)
    monkeypatch.setattr(protocol, "judges", lambda names: [name == "3.png" for name in names])
    recipe = few_updates(lr_grid=(0.1, 1e-6), num_iterations=3)
    outcome = run(make_encoder(), recipe, own_data, tmp_path / "run")
    assert seen == [["3.png"], ["3.png"], ["0.png", "1.png", "2.png"]]
    chosen = outcome.details["selection"]
    scores = chosen["score_by_lr"]
    # Of equal ones the smaller rate.
    assert chosen["lr"] == (0.1 if scores["0.1"] > scores["1e-06"] else 1e-6)
    assert set(chosen["score_by_lr"]) == {"0.1", "1e-06"}


def test_a_backbone_that_is_not_the_encoder_ends_the_run(
    own_data, few_updates, make_encoder, monkeypatch
):
    begin = Segmenter.__init__

    def spoiled(self, *arguments, **more):
        begin(self, *arguments, **more)
        with torch.no_grad():
            self.network.layer4[0].conv1.weight[0, 0, 0, 0] += 1e-3

    monkeypatch.setattr(Segmenter, "__init__", spoiled)
    with pytest.raises(CheckpointError, match=r"different: layer4\.0\.conv1\.weight"):
        protocol.build(make_encoder(), few_updates(), own_data, seed=0)


def test_an_encoder_without_a_map_is_refused(own_data, few_updates, make_encoder, tmp_path):
    with pytest.raises(UsageError, match="has no levels"):
        run(make_encoder("pixels"), few_updates(), own_data, tmp_path)


def test_data_of_many_sizes_are_judged_image_by_image(few_updates, make_encoder, tmp_path):
    root = tmp_path / "own"
    for part, sizes in (("train", [(40, 30)] * 2), ("val", [(20, 50), (64, 33), (7, 7)])):
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True)
        for number, size in enumerate(sizes):
            Image.new("RGB", size).save(root / f"{part}/images/{number}.jpg")
            Image.new("L", size, number % 2).save(root / f"{part}/masks/{number}.png")
    (root / "classes.txt").write_text("a\nb\n")
    data = open_masks(str(root))
    assert isinstance(data, SemanticData)
    outcome = run(make_encoder(), few_updates(num_iterations=1), data, tmp_path / "run")
    counted = outcome.drawn["label_confusion"].sum(1).tolist()
    assert counted == [20 * 50 + 7 * 7, 64 * 33]
    shown = (*outcome.drawn["predicted_worst"], *outcome.drawn["predicted_best"])
    sizes = {0: (50, 20), 1: (33, 64), 2: (7, 7)}
    assert shown
    assert all(labels.shape == sizes[index] for index, labels in shown)
    assert dataclasses.asdict(outcome)["num_test"] == 3
