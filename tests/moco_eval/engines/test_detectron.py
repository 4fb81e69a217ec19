"""Detectron2 where it is installed: the same model as the other engine's, tensor by tensor."""

import dataclasses

import pytest
import torch

from moco_eval import detect, segment
from moco_eval.data.images import InputSpec
from moco_eval.engines import transfer
from moco_eval.engines.examples import example_of
from moco_eval.errors import CheckpointError

pytestmark = [
    pytest.mark.detectron2,
    # Detectron2 decorates its functions with what torch has deprecated, and calls meshgrid without
    # the argument that torch asks for; neither is ours to change.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]


@pytest.fixture
def build(tiny_data, tiny_recipe):
    def build(engine, encoder, *, recipe=tiny_recipe, with_masks=False):
        return transfer.build_detector(
            encoder, recipe, tiny_data, engine=engine, seed=0, with_masks=with_masks
        )

    return build


def background_first(tensor):
    """Detectron2 counts the background last, torchvision first."""
    return torch.cat([tensor[-1:], tensor[:-1]])


def copy_heads(ours, theirs):
    """Give torchvision's heads the weights of Detectron2's."""
    rpn, box = theirs.model.proposal_generator.rpn_head, theirs.model.roi_heads.box_predictor
    pairs = [
        (ours.rpn.head.conv[0][0], rpn.conv),
        (ours.rpn.head.cls_logits, rpn.objectness_logits),
        (ours.rpn.head.bbox_pred, rpn.anchor_deltas),
        (ours.extra_norm, theirs.model.roi_heads.res5.norm),
    ]
    if ours.with_masks:
        mask = theirs.model.roi_heads.mask_head
        pairs += [(ours.mask_head[0], mask.deconv), (ours.mask_head[2], mask.predictor)]
    with torch.no_grad():
        for mine, other in pairs:
            mine.load_state_dict(other.state_dict())
        # Every class has four deltas but the background, which has none in Detectron2.
        for name in ("weight", "bias"):
            getattr(ours.class_logits, name).copy_(background_first(getattr(box.cls_score, name)))
            deltas = getattr(box.bbox_pred, name)
            getattr(ours.box_deltas, name).copy_(torch.cat([1e9 * deltas[:4], deltas]))


def liven(detector):
    """Heads that have learnt nothing say nothing: make them say something."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        box = detector.model.roi_heads.box_predictor
        box.cls_score.weight.normal_(std=0.3)
        box.bbox_pred.weight.normal_(std=0.1)
        detector.model.proposal_generator.rpn_head.anchor_deltas.weight.normal_(std=0.03)
        detector.model.proposal_generator.rpn_head.objectness_logits.weight.normal_(std=0.1)
        if detector.with_masks:
            detector.model.roi_heads.mask_head.predictor.weight.normal_(std=0.3)


@pytest.mark.parametrize("arch", ["resnet10_small", "resnet18", "resnext50_32x4d"])
def test_both_engines_hold_the_same_features(build, make_encoder, arch):
    # Basic and bottleneck blocks, groups, 3x3 and 7x7 stems, colours turned round.
    encoder = make_encoder(arch, InputSpec(channel_order="BGR", mean=(0.1, 0.2, 0.3)))
    pixels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    theirs = build("detectron2", encoder).eval().levels(pixels)
    ours = build("torchvision", encoder).eval().levels(pixels)
    for level in ("res4", "res5"):
        assert ours[level].std() > 0
        torch.testing.assert_close(theirs[level], ours[level], rtol=1e-4, atol=1e-5)


def test_equal_weights_have_equal_losses(build, make_encoder, tiny_data, tiny_recipe):
    # With more to sample than there is, nothing is left to chance.
    recipe = dataclasses.replace(tiny_recipe, rpn_batch=20000, roi_batch=2000)
    encoder = make_encoder()
    theirs = build("detectron2", encoder, recipe=recipe, with_masks=True).train()
    ours = build("torchvision", encoder, recipe=recipe, with_masks=True).train()
    liven(theirs)
    copy_heads(ours, theirs)
    examples = [
        example_of(scene, recipe, side=48, with_masks=True) for scene in tiny_data.train.scenes[:2]
    ]
    expected, found = theirs(examples), ours(examples)
    assert set(found) == set(expected)
    for name, loss in expected.items():
        assert loss > 1e-5, name
        torch.testing.assert_close(found[name], loss, rtol=2e-3, atol=1e-6, msg=name)


def test_equal_weights_detect_equal_boxes_and_masks(build, make_encoder, tiny_data, tiny_recipe):
    encoder = make_encoder()
    theirs = build("detectron2", encoder, with_masks=True).eval()
    ours = build("torchvision", encoder, with_masks=True).eval()
    liven(theirs)
    copy_heads(ours, theirs)
    # Twice the size, so that boxes and masks are brought back to the image's own.
    example = example_of(tiny_data.test.scenes[0], tiny_recipe, side=96)
    expected, found = theirs.detect(example), ours.detect(example)
    assert len(expected.boxes) > 5
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
    assert torch.equal(found.labels, expected.labels)
    assert expected.masks.any()
    # A pixel at exactly one half may round either way.
    assert (found.masks != expected.masks).float().mean() < 1e-3


def test_a_few_updates_train_everything(build, make_encoder, tiny_data, tiny_recipe, tmp_path):
    encoder = make_encoder()
    detector = build("detectron2", encoder, with_masks=True)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    transfer.train(detector, tiny_recipe, tiny_data.train, seed=0, work_dir=tmp_path)
    still = {
        name
        for name, tensor in detector.state_dict().items()
        if tensor.equal(before[name]) and "cell_anchors" not in name
    }
    assert still == set()
    assert detector.model.backbone.stem.conv1.norm.num_batches_tracked == 2


def test_both_protocols_run(make_encoder, tiny_data, tiny_recipe, tmp_path):
    run = {"seed": 0, "work_dir": tmp_path, "engine": "detectron2"}
    boxes = detect.evaluate(make_encoder(), tiny_recipe, tiny_data, **run)
    assert list(boxes.metrics) == ["AP", "AP50", "AP75"]
    masks = segment.evaluate(make_encoder(), tiny_recipe, tiny_data, **run)
    assert list(masks.metrics) == ["AP_mask", "AP50_mask", "AP75_mask", "AP"]
    again = segment.evaluate(make_encoder(), tiny_recipe, tiny_data, **run)
    assert again == dataclasses.replace(masks, details=again.details)
    assert again.details["final_losses"] == masks.details["final_losses"]


def test_optimizer_and_schedule_are_those_of_its_own_solver(build, make_encoder, tiny_recipe):
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler, build_optimizer

    recipe = dataclasses.replace(
        tiny_recipe, num_iterations=12, warmup_iterations=4, lr_drops=(6, 9), lr=0.02
    )
    detector = build("detectron2", make_encoder())
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 0.02, 12, (6, 9)
    cfg.SOLVER.WARMUP_ITERS = 4
    theirs = build_optimizer(cfg, detector)
    scheduler = build_lr_scheduler(cfg, theirs)
    for step in range(12):
        assert recipe.lr_at(step) == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        scheduler.step()
    ours = transfer.build_optimizer(detector, recipe)
    settings = [
        {id(p): (g["weight_decay"], g["momentum"]) for g in o.param_groups for p in g["params"]}
        for o in (theirs, ours)
    ]
    assert settings[0] == settings[1]


def test_a_resnet_that_detectron2_cannot_build_is_refused(build, make_encoder):
    with pytest.raises(CheckpointError, match="stem of this ResNet is not one convolution"):
        build("detectron2", make_encoder("timm:resnet26d"))
    # Squeeze-and-excitation has weights that no block of Detectron2's has.
    with pytest.raises(CheckpointError, match=r"has no place in it: layer1\.0\.se"):
        build("detectron2", make_encoder("timm:seresnet50"))
    # GroupNorm has no statistics for a BatchNorm to take over.
    with pytest.raises(CheckpointError, match=r"not in the encoder: bn1\.running_mean"):
        build("detectron2", make_encoder("timm:resnet50_gn"))


def test_a_stride_in_another_place_is_refused(build, make_encoder):
    encoder = make_encoder("resnet50")
    # Caffe's ResNet: every tensor fits, the features do not.
    block = encoder.network.layer2[0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    with pytest.raises(CheckpointError, match="features at res4"):
        build("detectron2", encoder)
