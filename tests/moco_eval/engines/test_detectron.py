"""Detectron2's detectors around an encoder: the same network, fed the same, trained as told."""

import dataclasses

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from moco_eval import distributed
from moco_eval.data.images import InputSpec, normalize
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.formats.inputs import CAFFE, IMAGENET
from moco_eval.encoders.networks.resnets import ScaledResNet
from moco_eval.engines.examples import Example
from moco_eval.engines.recipes import RECIPES
from moco_eval.errors import CheckpointError, UsageError

pytestmark = [
    pytest.mark.detectron2,
    # Detectron2 decorates its functions with what torch has deprecated, and calls meshgrid without
    # the argument that torch asks for; neither is ours to change.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]

KINDS = {
    "c4": "coco-c4-1x",
    "dc5": "voc-dc5-24k",
    "fpn": "coco-fpn-1x",
    "retinanet": "coco-retinanet-1x",
    "keypoints": "coco-keypoint-fpn-2x",
}


def tiny(recipe):
    """As the recipe says, on small images and with few samples."""
    heads = ("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS=(8,)",) if recipe.keypoints else ()
    return dataclasses.replace(
        recipe,
        rpn_batch=32,
        rpn_post_nms=(40, 20),
        roi_batch=8,
        mask_channels=8,
        detections_per_image=10,
        opts=(*heads, "MODEL.ROI_BOX_HEAD.FC_DIM=32"),
    )


def build(encoder, recipe, *, seed=0):
    from moco_eval.engines.detectron import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(encoder, recipe, num_classes=2, num_keypoints=3)


def example(*, seed=0, file_size=(64, 96)):
    """Two objects with masks and keypoints on noise."""
    draw = torch.Generator().manual_seed(seed)
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 8:40, 8:40] = True
    masks[1, 30:60, 44:90] = True
    return Example(
        pixels=torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=draw),
        size=file_size,
        boxes=torch.tensor([[8.0, 8, 40, 40], [44, 30, 90, 60]]),
        labels=torch.tensor([0, 1]),
        masks=masks,
        keypoints=torch.tensor([[[10.0, 12, 2], [30, 20, 2], [20, 36, 1]]] * 2),
    )


@pytest.fixture
def narrow():
    """A ResNet-50 of 8 channels: Detectron2 can build it by itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = ScaledResNet(Bottleneck, (3, 4, 6, 3), channels=8, num_classes=2)
        network.fc = nn.Identity()
        network.train()(torch.randn(4, 3, 64, 64))
    manifest = Manifest(
        source="narrow", format="test", tower="", arch="narrow", input=IMAGENET, num_loaded=0
    )
    return Encoder(network, manifest)


@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        *(("resnet10_small", kind) for kind in KINDS),
        ("resnet18", "c4"),
        ("resnet18", "retinanet"),
        ("resnet50_v1", "c4"),
        ("resnet50_v1", "fpn"),
        ("resnext50_32x4d", "c4"),
        ("resnet18_cifar", "fpn"),
    ],
)
def test_a_detector_holds_the_encoders_tensors_and_levels(make_encoder, arch, kind):
    # Basic and bottleneck blocks, groups, 3x3 and 7x7 stems with and without pooling, both places
    # of the stride, colours turned round.
    encoder = make_encoder(arch, InputSpec(channel_order="BGR", mean=(0.1, 0.2, 0.3)))
    detector = build(encoder, tiny(RECIPES[KINDS[kind]])).eval()
    pixels = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    expected = encoder.levels(normalize(pixels[None], encoder.input))
    found = detector.levels(pixels)
    levels = ["res2", "res3", "res4", "res5"]
    # The dilated one computes something else.
    assert list(found) == (levels[:3] if kind == "dc5" else levels)
    for level, features in found.items():
        assert features.std() > 0
        assert (features - expected[level]).norm() < 1e-5 * expected[level].norm()
    tensors = detector.backbone()
    assert tensors.keys() == encoder.tensors().keys()
    assert all(tensor.equal(tensors[name]) for name, tensor in encoder.tensors().items())


def test_pixels_come_as_caffes_networks_were_fed(make_encoder):
    detector = build(make_encoder("resnet18", CAFFE), tiny(RECIPES["coco-fpn-1x"]))
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    image = {"image": detector._image(pixels)}
    fed = detector.model.preprocess_image([image]).tensor[0, :, 0, 0]
    # Blue first, the mean of each subtracted, nothing divided.
    assert fed.tolist() == pytest.approx([30 - 103.53, 20 - 116.28, 10 - 123.675], abs=1e-4)


@pytest.mark.parametrize(
    "name",
    # The others are for transformers, and are tested with them.
    [name for name, recipe in RECIPES.items() if recipe.optimizer == "sgd"],
)
def test_every_recipe_trains_what_it_says_and_detects(make_encoder, name):
    recipe = tiny(RECIPES[name])
    encoder = make_encoder()
    detector = build(encoder, recipe).train()
    before = {n: tensor.clone() for n, tensor in detector.model.state_dict().items()}
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    torch.manual_seed(0)
    for step in range(2):
        optimizer.zero_grad()
        losses = detector([example(seed=step), example(seed=step + 2)])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert all(loss.isfinite() for loss in losses.values())
    heads = {"loss_mask": recipe.masks, "loss_keypoint": recipe.keypoints}
    assert {head for head in heads if head in losses} == {h for h, has in heads.items() if has}

    # All that is frozen stays, byte by byte, and the rest moves.
    after = detector.model.state_dict()
    still = {n for n, tensor in after.items() if tensor.equal(before[n])}
    own = set(detector.names) & after.keys()
    norms = {n for n in own if ".norm." in n}
    frozen = {"none": set(), "norms": norms, "encoder": own}[recipe.freeze]
    moving = {n for n in after if "cell_anchors" not in n} - frozen
    assert still & own == frozen
    # A ReLU may be off, and a class without an object in the sample has no box.
    assert len(moving & still) < 0.1 * len(moving), sorted(moving & still)

    detector.eval()
    if recipe.detector == "retinanet":
        # It begins with every class unlikely.
        detector.model.test_score_thresh = 0.0
    found = detector.detect(example(file_size=(128, 192)))
    assert 0 < len(found.boxes) <= recipe.detections_per_image
    assert found.boxes.max() > 96
    assert found.boxes.max() <= 192
    assert set(found.labels.tolist()) <= {0, 1}
    assert (found.masks is not None) == recipe.masks
    if recipe.masks:
        assert found.masks.shape == (len(found.boxes), 128, 192)
    assert (found.keypoints is not None) == recipe.keypoints
    if recipe.keypoints:
        assert found.keypoints.shape == (len(found.boxes), 3, 3)
        # Within the box that they belong to, in pixels of the file.
        outer = found.boxes[:, None] + torch.tensor([-1.0, -1, 1, 1])
        assert (found.keypoints[..., :2] >= outer[..., :2]).all()
        assert (found.keypoints[..., :2] <= outer[..., 2:]).all()


def test_the_norm_after_res5_is_trained_where_the_encoders_are_frozen(make_encoder):
    recipe = dataclasses.replace(tiny(RECIPES["voc-c4-24k"]), freeze="norms")
    detector = build(make_encoder(), recipe).train()
    norm = detector.model.roi_heads.res5.norm
    detector([example()])["loss_cls"].backward()
    assert norm.weight.grad.abs().sum() > 0
    assert norm.num_batches_tracked == 1
    # The encoder's have no gradient and no mode: their weights are no parameters.
    for stage in (detector.model.backbone.res3, detector.model.roi_heads.res5[:-1]):
        parameters = dict(stage.named_parameters())
        assert {name.rpartition(".")[0] for name in parameters} == {
            *("0.conv1", "0.conv2", "0.shortcut")
        }
        assert parameters["0.conv1.weight"].grad.abs().sum() > 0


def statistics_of(examples, encoder, name):
    """What the norms of the stem and of a new part remember after a step, and what is said."""
    detector = build(encoder, tiny(RECIPES[name])).train()
    torch.stack(list(detector(examples).values())).sum().backward()
    body = detector.model.backbone
    if name == "voc-c4-24k":
        new = detector.model.roi_heads.res5.norm
    else:
        body, new = body.bottom_up, body.fpn_lateral2.norm
    stem = body.stem.conv1.norm.running_mean
    return detector.norms, stem, new.running_mean


def statistics_of_a_rank(encoder, name):
    return statistics_of([example(seed=distributed.rank())], encoder, name)


@pytest.mark.parametrize("name", ["voc-c4-24k", "coco-fpn-1x"])
def test_norms_see_the_batches_of_all_ranks(on_ranks, make_encoder, name):
    encoder = make_encoder()
    said, stem, _ = statistics_of([example(seed=0), example(seed=1)], encoder, name)
    assert said == "BN: each sees the 16 images of one device"
    ranks = on_ranks(2, statistics_of_a_rank, encoder, name)
    for rank_said, rank_stem, rank_new in ranks:
        # The CPU's: torch's own refuses it.
        assert rank_said == "naiveSyncBN: BatchNorm over 2 devices of 8 images each"
        torch.testing.assert_close(rank_stem, stem)
        assert rank_new.abs().sum() > 0
        assert torch.equal(rank_new, ranks[0][2])


def normalizer_of_a_rank(encoder):
    detector = build(encoder, tiny(RECIPES["coco-retinanet-1x"])).train()
    # Rank 1's image has two small objects instead, and fewer anchors lie on them.
    boxes = torch.tensor([[8.0, 8, 24, 24], [60, 40, 80, 60]])
    shown = example() if distributed.rank() == 0 else dataclasses.replace(example(), boxes=boxes)
    detector([shown])
    return detector.state_dict()["normalizer"].item()


def test_what_retinanets_losses_are_divided_by_is_all_ranks_and_saved(on_ranks, make_encoder):
    encoder = make_encoder("resnet18")
    alone = normalizer_of_a_rank(encoder)
    # 0.9 * 100 + 0.1 * the number of anchors on the objects.
    count = round(10 * (alone - 90))
    assert alone == pytest.approx(90 + count / 10)
    assert count > 2
    first, second = on_ranks(2, normalizer_of_a_rank, encoder)
    assert first == second != alone

    # Continued elsewhere, the next loss is what it would have been.
    recipe = tiny(RECIPES["coco-retinanet-1x"])
    detector = build(encoder, recipe).train()
    detector([example()])
    other = build(encoder, recipe, seed=1).train()
    other.load_state_dict(detector.state_dict())
    expected, found = detector([example(seed=3)]), other([example(seed=3)])
    assert {name: loss.item() for name, loss in found.items()} == {
        name: loss.item() for name, loss in expected.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_are_detectron2s_own_model(narrow, kind):
    from detectron2.layers import get_norm
    from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
    from detectron2.modeling.roi_heads import Res5ROIHeads
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
    from detectron2.utils.events import EventStorage

    recipe = tiny(RECIPES[KINDS[kind]])
    ours = build(narrow, recipe)
    name = ours.cfg.MODEL.ROI_HEADS.NAME
    if kind == "c4" and name not in ROI_HEADS_REGISTRY:
        # As detection/train_net.py of github.com/facebookresearch/moco has it.
        def with_norm(cfg, shapes):
            heads = Res5ROIHeads(cfg, shapes)
            norm = get_norm(cfg.MODEL.RESNETS.NORM, heads.res5[-1].out_channels)
            heads.res5.add_module("norm", norm)
            return heads

        ROI_HEADS_REGISTRY._do_register(name, with_norm)
    theirs = build_model(ours.cfg)
    theirs.load_state_dict(ours.model.state_dict())

    examples = [example(seed=1), example(seed=2)]
    # Pixels are RGB in both. The two objects of ``example``, of its classes 0 and 1:
    objects = Instances((64, 96))
    objects.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 40], [44, 30, 90, 60]]))
    objects.gt_classes = torch.tensor([0, 1])
    objects.gt_masks = BitMasks(examples[0].masks)
    objects.gt_keypoints = Keypoints([[[10.0, 12, 2], [30, 20, 2], [20, 36, 1]]] * 2)
    inputs = [{"image": each.pixels, "instances": objects} for each in examples]
    torch.manual_seed(0)
    with EventStorage():
        expected = theirs.train()(inputs)
    torch.manual_seed(0)
    found = ours.train()(examples)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert loss.item() > 0, name
        assert found[name].item() == loss.item(), name


def test_a_dilated_res5_is_detectron2s(narrow):
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_resnet_backbone

    detector = build(narrow, tiny(RECIPES["voc-dc5-24k"]))
    theirs = build_resnet_backbone(detector.cfg, ShapeSpec(channels=3)).eval()
    theirs.load_state_dict(detector.model.backbone.bottom_up.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(images)["res5"]
        found = detector.eval().model.backbone.bottom_up(images)["res5"]
        reduced = detector.model.backbone(images)["res5"]
    # 64x96 at stride 16, as res4's; 8 channels times 8 times 4.
    assert expected.shape == (1, 256, 4, 6)
    assert torch.equal(found, expected)
    # The paper's convolution after it, with norm and without activation.
    convolution = detector.model.backbone.reduce
    assert convolution.weight.shape == (512, 256, 3, 3)
    assert convolution.norm.num_features == 512
    assert reduced.min() < 0
    assert reduced.shape == (1, 512, 4, 6)


def test_dilated_basic_blocks_see_twice_as_far(make_encoder):
    detector = build(make_encoder(), tiny(RECIPES["voc-dc5-24k"]))
    [block] = detector.model.backbone.bottom_up.res5
    with torch.no_grad():
        block.shortcut.weight.zero_()
        for layer in (block.conv1, block.conv2):
            layer.weight.fill_(1.0)
            layer.norm = nn.Identity()
        seen = block(nn.functional.pad(torch.ones(1, 64, 1, 1), (6, 6, 6, 6)))[0, 0, 6]
    # Two 3x3 convolutions of dilation 2 on one pixel: taps at -2, 0, 2 twice, so -4 to 4.
    assert (seen > 0).nonzero().flatten().tolist() == [2, 4, 6, 8, 10]


def test_backbone_and_levels_are_read_from_the_live_model(make_encoder):
    detector = build(make_encoder(), tiny(RECIPES["coco-fpn-1x"])).eval()
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    levels, tensors = detector.levels(pixels), detector.backbone()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    stage = detector.model.backbone.bottom_up.res4
    with torch.no_grad():
        stage[0].conv2.weight[0, 0, 0, 0] += 1
    stage[0].extra = nn.Linear(1, 1)
    after = detector.backbone()
    changed = {name for name in before if not after[name].equal(before[name])}
    assert changed == {"layer3.0.conv2.weight"}
    assert {name for name in after if name not in before} == {
        *("backbone.bottom_up.res4.0.extra.weight", "backbone.bottom_up.res4.0.extra.bias")
    }
    found = detector.levels(pixels)
    equal = {level: found[level].equal(levels[level]) for level in levels}
    assert equal == {"res2": True, "res3": True, "res4": False, "res5": False}
    # What is computed, not only what is held: nothing of the model's path may be left out.
    detector.model.pixel_mean += 50
    assert not detector.levels(pixels)["res2"].equal(found["res2"])


def test_the_schedule_is_that_of_its_own_solver():
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    recipe = dataclasses.replace(
        RECIPES["digits-c4"], num_iterations=12, warmup_iterations=4, lr_drops=(6, 9), lr=0.02
    )
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 0.02, 12, (6, 9)
    cfg.SOLVER.WARMUP_ITERS = 4
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for step in range(12):
        assert recipe.lr_at(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_a_network_that_detectron2_cannot_build_is_refused(make_encoder):
    recipe = tiny(RECIPES["voc-c4-24k"])
    with pytest.raises(CheckpointError, match="stem of this ResNet is not one convolution"):
        build(make_encoder("timm:resnet26d"), recipe)
    # Squeeze-and-excitation has weights that no block of Detectron2's has.
    with pytest.raises(CheckpointError, match=r"has no place in it: layer1\.0\.se"):
        build(make_encoder("timm:seresnet50"), recipe)
    # GroupNorm has no statistics for a BatchNorm to take over.
    with pytest.raises(CheckpointError, match=r"not in the encoder: .*stem\.conv1\.norm\.running"):
        build(make_encoder("timm:resnet50_gn"), recipe)
    with pytest.raises(UsageError, match=r"built of ResNets.*Try --engine torchvision"):
        build(make_encoder("timm:convnext_atto"), recipe)


def test_another_shape_is_refused(make_encoder):
    encoder = make_encoder()
    # Bias and statistics of one channel, which torch would spread over all.
    encoder.network.layer2[0].bn1.running_mean = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"layer2\.0\.bn1\.running_mean is \[1\], not \[32\]"):
        build(encoder, tiny(RECIPES["voc-c4-24k"]))


def test_kept_weights_load_by_detectron2s_own_checkpointer(make_encoder, tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer

    detector, other = (
        build(make_encoder(), tiny(RECIPES["coco-c4-1x"]), seed=seed) for seed in (0, 1)
    )
    path = tmp_path / "model.pth"
    torch.save({"model": detector.weights()}, path)
    DetectionCheckpointer(other.model).load(str(path))
    expected, found = detector.model.state_dict(), other.model.state_dict()
    assert "roi_heads.box_predictor.cls_score.weight" in expected
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
