"""Both dense protocols on torchvision's parts: the run as a whole, and its gate."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from moco_eval import detect, engines, segment
from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.engines import transfer
from moco_eval.engines.examples import training_batches
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.precise_bn import update_statistics
from moco_eval.errors import CheckpointError, DataError, DivergedError, UsageError


@pytest.fixture
def build(tiny_data, tiny_recipe, make_encoder):
    def build(encoder=None, *, masks=False):
        recipe = dataclasses.replace(tiny_recipe, masks=masks)
        encoder = encoder or make_encoder()
        detector, _ = transfer.build_detector(
            encoder, recipe, tiny_data, engine="torchvision", seed=0
        )
        return detector

    return build


@pytest.fixture
def pixels():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=draw)


def test_detect_trains_and_leaves_detections_and_losses(
    tiny_data, tiny_recipe, make_encoder, tmp_path
):
    encoder = make_encoder()
    before = encoder.tensor_sha256()
    # So many updates that something is found.
    recipe = dataclasses.replace(tiny_recipe, num_iterations=25)
    run = {"seed": 0, "work_dir": tmp_path / "run", "engine": "torchvision"}
    outcome = detect.evaluate(encoder, recipe, tiny_data, **run)
    # All objects are small ones.
    assert list(outcome.metrics) == ["AP", "AP50", "AP75", "APs"]
    assert outcome.num_test == 10
    assert encoder.tensor_sha256() == before

    results = json.loads((tmp_path / "run" / "detections.json").read_text())
    assert results
    assert {result["category_id"] for result in results} <= {3, 7}
    for result in results:
        left, top, width, height = result["bbox"]
        assert 0 <= left < left + width <= 64.001
        assert 0 <= top < top + height <= 48.001

    # A row of means after 20 updates, and one of the last five.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [19, 24]
    assert rows[1]["lr"] == recipe.lr
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"} <= rows[0].keys()
    assert "loss_mask" not in rows[0]

    # The weights are kept, and what only continuing needs is not.
    weights = torch.load(tmp_path / "run" / "model.pth", weights_only=True)["model"]
    assert weights["body.network.conv1.weight"].isfinite().all()
    assert not (tmp_path / "run" / "checkpoints").exists()

    # The seed decides everything.
    again = detect.evaluate(encoder, recipe, tiny_data, **run | {"work_dir": tmp_path / "again"})
    assert again.metrics == outcome.metrics
    assert json.loads((tmp_path / "again" / "detections.json").read_text()) == results


def test_segment_scores_masks_first(tiny_data, tiny_recipe, make_encoder, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, num_iterations=15, masks=True)
    outcome = segment.evaluate(
        make_encoder(), recipe, tiny_data, seed=0, work_dir=tmp_path, engine="torchvision"
    )
    names = list(outcome.metrics)
    assert names[:3] == ["AP_mask", "AP50_mask", "AP75_mask"]
    assert {"AP", "AP50", "AP75"} <= set(names)
    results = json.loads((tmp_path / "detections.json").read_text())
    assert all(result["segmentation"]["size"] == [48, 64] for result in results)
    assert "loss_mask" in outcome.details["final_losses"]


def test_all_weights_are_trained_and_batchnorm_is_made_precise(
    build, tiny_data, tiny_recipe, make_encoder, tmp_path
):
    encoder = make_encoder()
    detector = build(encoder, masks=True)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    recipe = dataclasses.replace(tiny_recipe, masks=True)
    transfer.train(detector, encoder, recipe, tiny_data.train, seed=0, work_dir=tmp_path)
    still = {name for name, tensor in detector.state_dict().items() if tensor.equal(before[name])}
    assert still == set()
    assert encoder.tensors()["bn1.weight"].equal(before["body.network.bn1.weight"])
    # The statistics are those of the two batches after the last: nothing is left of averages.
    expected = copy.deepcopy(detector).train()
    expected.body.network.bn1.running_mean.fill_(1e9)
    after = training_batches(tiny_data.train, recipe, seed=0)(range(3, 5))
    update_statistics(expected, after)
    statistics = expected.body.network.bn1.running_mean
    assert torch.equal(detector.body.network.bn1.running_mean, statistics)


def test_a_loss_that_is_not_finite_stops_the_run(
    build, tiny_data, tiny_recipe, make_encoder, tmp_path
):
    encoder = make_encoder()
    detector = build(encoder)
    with torch.no_grad():
        detector.class_logits.bias[0] = float("nan")
    with pytest.raises(DivergedError, match="not finite at update 0"):
        transfer.train(detector, encoder, tiny_recipe, tiny_data.train, seed=0, work_dir=tmp_path)


def test_the_gate_names_a_tensor_that_is_not_the_encoders(build, make_encoder, pixels):
    encoder = make_encoder()
    detector = build(encoder)
    check_backbone(detector, encoder, pixels)
    with torch.no_grad():
        detector.body.network.layer2[0].conv1.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(CheckpointError, match=r"different: layer2\.0\.conv1\.weight"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_sees_a_stride_in_another_place(build, make_encoder, pixels):
    encoder = make_encoder()
    detector = build(encoder)
    # Every tensor and every shape still fits.
    block = detector.body.network.layer3[0]
    block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)
    with pytest.raises(CheckpointError, match=r"(?s)res4: off by .*res5: off by"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_sees_another_normalisation(build, make_encoder, pixels):
    encoder = make_encoder()
    detector = build(encoder)
    detector.input = dataclasses.replace(DIGITS_INPUT, mean=(0.3, 0.3, 0.4))
    with pytest.raises(CheckpointError, match="res4: off by"):
        check_backbone(detector, encoder, pixels)


def test_any_resnet_is_taken_with_its_own_channel_order(build, make_encoder):
    # 7x7 stem, strides 4 to 32, BGR: the gate holds inside.
    spec = InputSpec(size=64, channel_order="BGR", mean=(0.1, 0.2, 0.3))
    detector = build(make_encoder("resnet18", spec))
    assert detector.body.strides["res4"] == 16


SMALL_SWIN = (
    "timm:swin_tiny_patch4_window7_224:strict_img_size=false,"
    "embed_dim=24,depths=[1,1,2,1],num_heads=[1,1,1,1]"
)


def test_the_gate_sees_permuted_blocks(build, make_encoder, pixels):
    encoder = make_encoder("timm:convnext_atto")
    detector = build(encoder)
    check_backbone(detector, encoder, pixels)
    stage = detector.body.network.stages[2]
    stage.blocks = nn.Sequential(*reversed(stage.blocks))
    with pytest.raises(CheckpointError, match=r"different: stages\.2\.blocks\.0\.conv_dw\.weight"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_sees_another_eps(build, make_encoder, pixels):
    encoder = make_encoder("timm:convnext_atto")
    detector = build(encoder)
    # Every tensor fits; only the last stage computes something else.
    detector.body.network.stages[3].downsample[0].eps = 1.0
    with pytest.raises(CheckpointError, match=r"res5: off by"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_counts_a_norm_that_the_detector_leaves_out(build, make_encoder, pixels):
    encoder = make_encoder("timm:convnext_atto")
    detector = build(encoder)
    with torch.no_grad():
        detector.body.network.head.norm.weight[0] = 1e9
    with pytest.raises(CheckpointError, match=r"different: head\.norm\.weight"):
        check_backbone(detector, encoder, pixels)


def test_a_network_for_one_image_size_is_refused(build, make_encoder):
    strict = SMALL_SWIN.replace("strict_img_size=false", "img_size=32")
    with pytest.raises(UsageError, match=r"images of one size alone.*add strict_img_size=false"):
        build(make_encoder(strict))


def test_a_network_without_levels_is_refused(build, make_encoder):
    with pytest.raises(UsageError, match="has no levels res2 to res5"):
        build(make_encoder("pixels"))


def test_detectron2_is_left_to_resnets(make_encoder, monkeypatch):
    monkeypatch.setattr(engines, "has_detectron2", lambda: True)
    resnet, other = make_encoder(), make_encoder("timm:test_convnext")
    assert engines.choose("auto", resnet) == "detectron2"
    assert engines.choose("auto", other) == "torchvision"
    with pytest.raises(UsageError, match="Try --engine torchvision"):
        engines.choose("detectron2", other)


def test_masks_are_needed_for_segment_and_not_for_detect(
    tiny_data, tiny_recipe, make_encoder, tmp_path
):
    bare = dataclasses.replace(
        tiny_data.train,
        scenes=tuple(
            dataclasses.replace(scene, segmentations=(None, None))
            for scene in tiny_data.train.scenes
        ),
    )
    data = dataclasses.replace(tiny_data, train=bare)
    run = {"seed": 0, "engine": "torchvision"}
    detect.evaluate(make_encoder(), tiny_recipe, data, **run, work_dir=tmp_path / "boxes")
    masked = dataclasses.replace(tiny_recipe, masks=True)
    with pytest.raises(DataError, match="has no segmentation"):
        segment.evaluate(make_encoder(), masked, data, **run, work_dir=tmp_path / "masks")


def test_an_engine_nobody_knows_is_refused(tiny_data, tiny_recipe, make_encoder, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'torchvision'"):
        detect.evaluate(
            make_encoder(), tiny_recipe, tiny_data, seed=0, work_dir=tmp_path, engine="torchvison"
        )
