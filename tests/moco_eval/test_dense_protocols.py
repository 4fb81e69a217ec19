"""Both dense protocols on torchvision's parts: the run as a whole, its gate and its parts."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from moco_eval import detect, engines, segment, suite
from moco_eval.data.images import DIGITS_INPUT, InputSpec, normalize
from moco_eval.engines import transfer
from moco_eval.engines.examples import Example, example_of
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.mask_head import mask_targets, paste_masks
from moco_eval.errors import CheckpointError, DataError, DivergedError, UsageError


@pytest.fixture
def build(tiny_data, tiny_recipe, make_encoder):
    def build(encoder=None, *, with_masks=False, seed=0):
        return transfer.build_detector(
            encoder or make_encoder(),
            tiny_recipe,
            tiny_data,
            engine="torchvision",
            seed=seed,
            with_masks=with_masks,
        )

    return build


def test_detect_trains_and_leaves_detections_and_losses(
    tiny_data, tiny_recipe, make_encoder, tmp_path
):
    encoder = make_encoder()
    before = encoder.tensor_sha256()
    # So many updates that something is found.
    recipe = dataclasses.replace(tiny_recipe, num_iterations=25)
    run = {"seed": 0, "work_dir": tmp_path / "run", "engine": "torchvision"}
    outcome = detect.evaluate(encoder, recipe, tiny_data, **run)
    assert list(outcome.metrics) == ["AP", "AP50", "AP75"]
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
    assert set(rows[0]) == {
        *("step", "lr", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg")
    }

    # The seed decides everything.
    again = detect.evaluate(encoder, recipe, tiny_data, **run | {"work_dir": tmp_path / "again"})
    assert again.metrics == outcome.metrics
    assert json.loads((tmp_path / "again" / "detections.json").read_text()) == results


def test_segment_scores_masks_first(tiny_data, tiny_recipe, make_encoder, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, num_iterations=15)
    outcome = segment.evaluate(
        make_encoder(), recipe, tiny_data, seed=0, work_dir=tmp_path, engine="torchvision"
    )
    assert list(outcome.metrics) == ["AP_mask", "AP50_mask", "AP75_mask", "AP"]
    results = json.loads((tmp_path / "detections.json").read_text())
    assert all(result["segmentation"]["size"] == [48, 64] for result in results)
    assert "loss_mask" in outcome.details["final_losses"]


def test_all_weights_are_trained_and_batchnorm_is_made_precise(
    build, tiny_data, tiny_recipe, make_encoder, tmp_path
):
    encoder = make_encoder()
    detector = build(encoder, with_masks=True)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    transfer.train(detector, tiny_recipe, tiny_data.train, seed=0, work_dir=tmp_path)
    still = {name for name, tensor in detector.state_dict().items() if tensor.equal(before[name])}
    assert still == set()
    assert encoder.tensors()["bn1.weight"].equal(before["network.bn1.weight"])
    # Reset, then averaged over the recipe's two batches: nothing is left of training's averages.
    assert detector.network.bn1.num_batches_tracked == 2
    assert detector.extra_norm.num_batches_tracked == 2


def test_norms_do_not_decay(build, tiny_recipe):
    detector = build()
    optimizer = transfer.build_optimizer(detector, tiny_recipe)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(detector.parameters()))
    assert decay[id(detector.network.bn1.weight)] == 0
    assert decay[id(detector.extra_norm.bias)] == 0
    assert decay[id(detector.network.conv1.weight)] == 1e-4
    assert decay[id(detector.class_logits.bias)] == 1e-4


def test_a_loss_that_is_not_finite_stops_the_run(build, tiny_data, tiny_recipe, tmp_path):
    detector = build()
    with torch.no_grad():
        detector.class_logits.bias[0] = float("nan")
    with pytest.raises(DivergedError, match="not finite at update 0"):
        transfer.train(detector, tiny_recipe, tiny_data.train, seed=0, work_dir=tmp_path)


def test_the_gate_names_a_tensor_that_is_not_the_encoders(build, tiny_data, make_encoder):
    encoder = make_encoder()
    detector = build(encoder)
    pixels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    check_backbone(detector, encoder, pixels)
    with torch.no_grad():
        detector.network.layer2[0].conv1.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(CheckpointError, match=r"different: layer2\.0\.conv1\.weight"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_sees_a_stride_in_another_place(build, make_encoder):
    encoder = make_encoder()
    detector = build(encoder)
    pixels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    # Every tensor and every shape still fits.
    block = detector.network.layer3[0]
    block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)
    with pytest.raises(CheckpointError, match=r"(?s)features at res4: off by .*res5: off by"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_sees_another_normalisation(build, make_encoder):
    encoder = make_encoder()
    detector = build(encoder)
    detector.input = dataclasses.replace(DIGITS_INPUT, mean=(0.3, 0.3, 0.4))
    pixels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="features at res4: off by"):
        check_backbone(detector, encoder, pixels)


def test_any_resnet_is_taken_with_its_own_channel_order(build, make_encoder):
    # 7x7 stem, strides 4 to 32, BGR: the gate holds inside.
    spec = InputSpec(size=64, channel_order="BGR", mean=(0.1, 0.2, 0.3))
    detector = build(make_encoder("resnet18", spec))
    assert detector.stride == 16


def test_a_network_without_levels_is_refused(build, make_encoder):
    with pytest.raises(UsageError, match="has no levels res2 to res5"):
        build(make_encoder("pixels"))


SMALL_SWIN = (
    "timm:swin_tiny_patch4_window7_224:strict_img_size=false,"
    "embed_dim=24,depths=[1,1,2,1],num_heads=[1,1,1,1]"
)


@pytest.mark.parametrize(
    "arch",
    ["resnet18", "timm:resnet18", "timm:regnetx_002", "timm:convnext_atto", SMALL_SWIN],
)
def test_a_detector_holds_the_levels_of_any_network_of_four_stages(build, make_encoder, arch):
    encoder = make_encoder(arch)
    detector = build(encoder).eval()
    assert detector.stride == 16
    pixels = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    expected = encoder.levels(normalize(pixels[None], encoder.input))
    found = detector.levels(pixels)
    # 96x128 pixels at strides 16 and 32.
    assert [each.shape[2:] for each in found.values()] == [(6, 8), (3, 4)]
    for level, features in found.items():
        assert features.std() > 0
        assert torch.equal(features, expected[level])


@pytest.mark.parametrize(
    ("arch", "unused"),
    [
        ("timm:regnetx_002", set()),
        # Final norms, which the detector leaves out.
        ("timm:convnext_atto", {"network.head.norm.weight", "network.head.norm.bias"}),
        (SMALL_SWIN, {"network.norm.weight", "network.norm.bias"}),
    ],
)
def test_one_update_moves_the_whole_backbone(
    build, make_encoder, tiny_data, tiny_recipe, arch, unused
):
    encoder = make_encoder(arch)
    # Fresh blocks are the identity, or all but that, and what is in them stays where it is.
    for name, parameter in encoder.network.named_parameters():
        if name.endswith(("gamma", "conv3.bn.weight")):
            nn.init.ones_(parameter)
    detector = build(encoder).train()
    before = {name: weight.clone() for name, weight in detector.named_parameters()}
    assert unused <= before.keys()
    batch = next(transfer.training_batches(tiny_data.train, tiny_recipe, seed=0, with_masks=False))
    torch.stack(list(detector(batch).values())).sum().backward()
    transfer.build_optimizer(detector, tiny_recipe).step()
    still = {name for name, weight in detector.named_parameters() if weight.equal(before[name])}
    assert still == unused


def test_an_image_may_have_no_detections(build, make_encoder, tiny_data, tiny_recipe):
    detector = build(make_encoder(SMALL_SWIN), with_masks=True).eval()
    detector.roi.score_thresh = 1.1
    found = detector.detect(example_of(tiny_data.test.scenes[0], tiny_recipe, side=48))
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 48, 64)


def test_what_fills_no_patch_is_not_lost(build, make_encoder):
    detector = build(make_encoder("timm:convnext_atto")).eval()
    pixels = torch.randint(0, 256, (3, 60, 70), dtype=torch.uint8)
    images = detector._images([pixels])
    # To multiples of 16 with zeros; the anchors are clipped to what the image is.
    assert images.tensors.shape == (1, 3, 64, 80)
    assert images.image_sizes == [(60, 70)]
    assert not images.tensors[..., 60:, :].any()
    # A ResNet pads by itself: 60 / 16 and 70 / 16 rounded up.
    resnet = build(make_encoder("resnet18")).eval()
    assert resnet._images([pixels]).tensors.shape == (1, 3, 60, 70)
    assert resnet.levels(pixels)["res4"].shape[2:] == (4, 5)
    # Seven pooled pixels are four of res5's in both.
    res4 = torch.randn(1, 160, 4, 5)
    boxes = [torch.tensor([[0.0, 0.0, 40.0, 40.0]])]
    assert detector.pool_size == 7
    assert detector._regions(res4, boxes).shape == (1, 320, 4, 4)


def test_the_gate_sees_permuted_blocks(build, make_encoder):
    encoder = make_encoder("timm:convnext_atto")
    detector = build(encoder)
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    check_backbone(detector, encoder, pixels)
    stage = detector.network.stages[2]
    stage.blocks = nn.Sequential(*reversed(stage.blocks))
    with pytest.raises(CheckpointError, match=r"different: stages\.2\.blocks\.0\.conv_dw\.weight"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_sees_another_eps(build, make_encoder):
    encoder = make_encoder("timm:convnext_atto")
    detector = build(encoder)
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    # Every tensor fits; only the last stage computes something else.
    detector.network.stages[3].downsample[0].eps = 1.0
    with pytest.raises(CheckpointError, match=r"two levels, 1 differ:\n  features at res5: off by"):
        check_backbone(detector, encoder, pixels)


def test_the_gate_counts_a_norm_that_the_detector_leaves_out(build, make_encoder):
    encoder = make_encoder("timm:convnext_atto")
    detector = build(encoder)
    with torch.no_grad():
        detector.network.head.norm.weight[0] = 1e9
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=r"1 differ:\n  different: head\.norm\.weight"):
        check_backbone(detector, encoder, pixels)


def test_a_plain_transformer_is_refused_with_what_takes_it(build, make_encoder):
    vit = "timm:vit_tiny_patch16_224:img_size=32,depth=1,embed_dim=24,num_heads=1"
    with pytest.raises(UsageError) as error:
        build(make_encoder(vit))
    assert str(error.value).startswith(
        "A VisionTransformer has no levels res2 to res5: no stem and four stages"
    )
    assert "for plain transformers their recipes are yet to come" in str(error.value)
    assert "linear, knn, finetune, lowshot and svm take this encoder" in str(error.value)


def test_a_network_for_one_image_size_is_refused(build, make_encoder):
    strict = SMALL_SWIN.replace("strict_img_size=false", "img_size=32")
    with pytest.raises(UsageError, match=r"images of one size alone.*add strict_img_size=false"):
        build(make_encoder(strict))


def test_detectron2_is_left_to_resnets(monkeypatch):
    monkeypatch.setattr(engines, "has_detectron2", lambda: True)
    assert engines.choose("auto") == "detectron2"
    assert engines.choose("auto", resnet=False) == "torchvision"
    with pytest.raises(UsageError, match=r"this encoder is none\. Try --engine torchvision"):
        engines.choose("detectron2", resnet=False)


def test_auto_says_that_it_takes_the_other_engine(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(engines, "has_detectron2", lambda: True)
    few = ("num_iterations=1", "precise_bn_batches=1", "batch_total=2", "short_side_test=32")
    cell = suite.Cell(
        protocol="detect",
        encoder="random:timm:test_convnext",
        data="digits-scenes",
        overrides=(*few, "short_sides_train=[32]"),
    )
    record = suite.run_cell(cell, results=tmp_path / "results", work_dir=tmp_path / "work")
    assert record["protocol"]["id"] == "detect-tv"
    said = [line for line in capsys.readouterr().out.splitlines() if "is no ResNet" in line]
    assert said == [
        "random:timm:test_convnext is no ResNet, and Detectron2's detector is built of no other: "
        "--engine auto takes torchvision."
    ]


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
    run = {"seed": 0, "work_dir": tmp_path, "engine": "torchvision"}
    detect.evaluate(make_encoder(), tiny_recipe, data, **run)
    with pytest.raises(DataError, match="has no segmentation"):
        segment.evaluate(make_encoder(), tiny_recipe, data, **run)


def test_an_engine_nobody_knows_is_refused(tiny_data, tiny_recipe, make_encoder, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'torchvision'"):
        detect.evaluate(
            make_encoder(), tiny_recipe, tiny_data, seed=0, work_dir=tmp_path, engine="torchvison"
        )


def test_anchors_stand_at_every_stride_and_are_not_rounded(build):
    detector = build()
    features = torch.zeros(1, 64, 2, 3)
    images = detector._images([torch.zeros(3, 16, 24, dtype=torch.uint8)])
    [anchors] = detector.rpn.anchor_generator(images, [features])
    # 2x3 places, 3 sizes, 3 ratios. Size 16, ratio 0.5: 16 * sqrt(2) = 22.63 wide, 11.31 high.
    assert anchors.shape == (2 * 3 * 9, 4)
    assert anchors[0].tolist() == pytest.approx([-11.3137, -5.6569, 11.3137, 5.6569], abs=1e-3)
    # The next place is 8 pixels to the right, the next row 8 below.
    assert (anchors[9] - anchors[0]).tolist() == pytest.approx([8, 0, 8, 0])
    assert (anchors[27] - anchors[0]).tolist() == pytest.approx([0, 8, 0, 8])


def test_a_mask_is_drawn_within_its_box_and_nowhere_else():
    full = torch.ones(2, 4, 4)
    # Where the pixels' centres are at 2.5 to 5.5 and 3.5 to 6.5; the second box has no area.
    boxes = torch.tensor([[2.0, 3.0, 6.0, 7.0], [4.0, 4.0, 4.0, 9.0]])
    drawn = paste_masks(full, boxes, (9, 8))
    expected = torch.zeros(9, 8, dtype=torch.bool)
    expected[3:7, 2:6] = True
    assert torch.equal(drawn[0], expected)
    assert not drawn[1].any()
    # A box that does not begin at a whole pixel: its four cells are centred at 3, 4, 5 and 6, the
    # pixels at 2.5 (half of the first cell), 3.5 (1), 4.5 (0.8), 5.5 (0.3) and 6.5 (0).
    fading = torch.tensor([1.0, 1.0, 0.6, 0.0]).expand(1, 4, 4)
    [drawn] = paste_masks(fading, torch.tensor([[2.5, 3.0, 6.5, 7.0]]), (9, 8))
    assert drawn[4].tolist() == [False, False, True, True, True, False, False, False]


def test_a_mask_target_is_the_part_of_the_mask_within_the_box():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[1, 0:10, 0:10] = True
    example = Example(
        pixels=torch.zeros(3, 20, 20, dtype=torch.uint8),
        size=(20, 20),
        boxes=torch.zeros(2, 4),
        labels=torch.zeros(2, dtype=torch.int64),
        masks=masks,
    )
    # Eight cells of one pixel from 5.4 on: the fifth, 9.4 to 10.4, is inside for the most part.
    boxes = torch.tensor([[5.4, 2.0, 13.4, 10.0]])
    target = mask_targets(example, boxes, torch.tensor([1]), 8)
    assert target[0].tolist() == [[True] * 5 + [False] * 3] * 8


def test_box_loss_is_l1_over_all_sampled_boxes(build, tiny_data, tiny_recipe):
    detector = build().train()
    batch = next(transfer.training_batches(tiny_data.train, tiny_recipe, seed=0, with_masks=False))
    for layer in (detector.box_deltas, detector.class_logits):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    sample = detector.roi.select_training_samples
    sampled = []

    def sample_and_move(*arguments):
        # Every sampled box, background too, is to be moved by 2 in each of its four numbers.
        proposals, matches, labels, deltas = sample(*arguments)
        sampled.append(torch.cat(labels))
        return proposals, matches, labels, [torch.full_like(each, 2.0) for each in deltas]

    detector.roi.select_training_samples = sample_and_move
    losses = detector(batch)
    num_objects, num_sampled = (sampled[0] > 0).sum().item(), len(sampled[0])
    assert 0 < num_objects < num_sampled
    # Nothing is predicted: objects are off by 4 * 2, and the background does not count.
    assert losses["loss_box_reg"].item() == pytest.approx(8 * num_objects / num_sampled)
    # Three equally likely classes, the background among them.
    assert losses["loss_cls"].item() == pytest.approx(1.0986, abs=1e-4)
