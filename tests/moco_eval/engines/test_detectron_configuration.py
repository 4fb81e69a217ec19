"""What Detectron2 is told: upstream's own settings, the encoder's facts, and no contradictions."""

import dataclasses

import pytest
from torch import nn
from torchvision.models.resnet import Bottleneck

from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.formats.inputs import CAFFE, IMAGENET
from moco_eval.encoders.networks.resnets import ScaledResNet
from moco_eval.engines.recipes import RECIPES
from moco_eval.errors import UsageError

pytestmark = [
    pytest.mark.detectron2,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
]

# What our configuration says otherwise than upstream's, and why.
APART = {
    "MODEL.WEIGHTS",  # the encoder's tensors are handed over in memory
    "MODEL.DEVICE",  # where the encoder is
    "DATASETS.TRAIN",  # data sets are read here
    "DATASETS.TEST",
    "INPUT.MASK_FORMAT",  # bitmaps: what examples hold, be the json's polygons or run lengths
}
# detection/configs/Base-RCNN-C4-BN.yaml of github.com/facebookresearch/moco: what it sets that is
# not Detectron2's default.
C4 = {
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "naiveSyncBN",
    "TEST.PRECISE_BN.ENABLED": True,
    "SOLVER.BASE_LR": 0.02,
}
# The lines that the files of a MoCo encoder add to those of the supervised one.
MOCO = {
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "INPUT.FORMAT": "RGB",
}
# pascal_voc_R_50_C4_24k.yaml
VOC = C4 | {
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "INPUT.MIN_SIZE_TRAIN": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    "SOLVER.STEPS": (18000, 22000),
    "SOLVER.MAX_ITER": 24000,
    "SOLVER.WARMUP_ITERS": 100,
}
ONE_X = {
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
    "SOLVER.STEPS": (60000, 80000),
    "SOLVER.MAX_ITER": 90000,
}
TWO_X = ONE_X | {"SOLVER.STEPS": (120000, 160000), "SOLVER.MAX_ITER": 180000}
# coco_R_50_C4_2x.yaml
COCO_C4_2X = C4 | TWO_X | {"MODEL.MASK_ON": True}
# Upstream has no files of these. Detectron2's own (configs/ of github.com/facebookresearch/
# detectron2), and what the paper changes: norms trained and synchronised, also in the pyramid.
TRAINED = MOCO | {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "TEST.PRECISE_BN.ENABLED": True,
    "SOLVER.BASE_LR": 0.02,
}
TWO_FC = {
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
}
FPN = (
    TRAINED
    | TWO_FC
    | {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.NORM": "SyncBN",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    }
)
MASKS = {"MODEL.MASK_ON": True}
LVIS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 1230,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
    "TEST.DETECTIONS_PER_IMAGE": 300,
    "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD": 0.001,
}
EXPECTED = {
    "voc-c4-24k": VOC | MOCO,
    "voc07-c4-9k": VOC | MOCO | {"SOLVER.STEPS": (6750, 8250), "SOLVER.MAX_ITER": 9000},
    "coco-c4-1x": COCO_C4_2X | ONE_X | MOCO,
    "coco-c4-2x": COCO_C4_2X | MOCO,
    "coco-fpn-1x": FPN | ONE_X | MASKS,
    "coco-fpn-2x": FPN | TWO_X | MASKS,
    "coco-fpn-6x": FPN
    | ONE_X
    | MASKS
    | {"SOLVER.STEPS": (480000, 520000), "SOLVER.MAX_ITER": 540000},
    # Base-Keypoint-RCNN-FPN.yaml
    "coco-keypoint-fpn-2x": FPN
    | TWO_X
    | {
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_HEADS.NUM_CLASSES": 1,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
    },
    # LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml
    "lvis-fpn-1x": FPN | ONE_X | MASKS | LVIS,
    "lvis-fpn-2x": FPN | TWO_X | MASKS | LVIS,
    "lvis-fpn-1x-frozen-norms": FPN | ONE_X | MASKS | LVIS | {"MODEL.RESNETS.NORM": "FrozenBN"},
    # Cityscapes/mask_rcnn_R_50_FPN.yaml, which also evaluates on the way (TEST.EVAL_PERIOD).
    "cityscapes-fpn": FPN
    | MASKS
    | {
        "MODEL.ROI_HEADS.NUM_CLASSES": 8,
        "INPUT.MIN_SIZE_TRAIN": (800, 832, 864, 896, 928, 960, 992, 1024),
        "INPUT.MIN_SIZE_TEST": 1024,
        "INPUT.MAX_SIZE_TRAIN": 2048,
        "INPUT.MAX_SIZE_TEST": 2048,
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.STEPS": (18000,),
        "SOLVER.MAX_ITER": 24000,
        "SOLVER.IMS_PER_BATCH": 8,
    },
    # Base-RetinaNet.yaml
    "coco-retinanet-1x": TRAINED
    | ONE_X
    | {
        "MODEL.META_ARCHITECTURE": "RetinaNet",
        "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.NORM": "SyncBN",
        "MODEL.ANCHOR_GENERATOR.SIZES": [
            [size, size * 2 ** (1.0 / 3), size * 2 ** (2.0 / 3)] for size in (32, 64, 128, 256, 512)
        ],
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
        "SOLVER.BASE_LR": 0.01,
    },
    # Base-RCNN-DilatedC5.yaml with the schedule of the paper's C4; the paper's convolution after
    # res5, which Detectron2 has not, is in our backbone of that name.
    "voc-dc5-24k": TRAINED
    | TWO_FC
    | {
        "MODEL.BACKBONE.NAME": "build_resnet_dc5_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res5"],
        "MODEL.RESNETS.RES5_DILATION": 2,
        "MODEL.RPN.IN_FEATURES": ["res5"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
        **{key: VOC[key] for key in VOC.keys() - C4.keys()},
    },
}


@pytest.fixture
def resnet50(make_encoder):
    return make_encoder("resnet50", IMAGENET)


@pytest.fixture
def narrow():
    """A ResNet-50 of 8 channels: Detectron2 can build it by itself."""
    network = ScaledResNet(Bottleneck, (3, 4, 6, 3), channels=8, num_classes=2, groups=(1, 64))
    network.fc = nn.Identity()
    manifest = Manifest(
        source="narrow", format="test", tower="", arch="narrow", input=IMAGENET, num_loaded=0
    )
    return Encoder(network, manifest)


def configured(recipe, encoder, *, world_size=8, device_type="cuda", num_classes=None):
    from moco_eval.engines.detectron.configuration import choose_norm, configuration

    norm, _ = choose_norm(recipe, encoder, world_size=world_size, device_type=device_type)
    return configuration(
        recipe, encoder, num_classes=num_classes or 80, num_keypoints=17, norm=norm
    )


def test_every_entry_is_upstreams_but_for_a_few_that_are_named(resnet50):
    from detectron2.config import get_cfg

    from moco_eval.engines.detectron.configuration import flat

    # Two frozen-norm and frozen variants, the small recipes: no published configuration. ViTDet's
    # are written in Python.
    resnets = {name for name, recipe in RECIPES.items() if recipe.optimizer == "sgd"}
    assert resnets - EXPECTED.keys() == {
        *("digits-c4", "small-fpn", "coco-fpn-1x-frozen", "lvis-fpn-2x-frozen-norms")
    }
    defaults = flat(get_cfg())
    for name, expected in EXPECTED.items():
        where = "RETINANET" if "retinanet" in name else "ROI_HEADS"
        num_classes = expected.get(f"MODEL.{where}.NUM_CLASSES")
        found = flat(configured(RECIPES[name], resnet50, num_classes=num_classes))
        assert found.keys() == defaults.keys()
        wanted = defaults | expected
        wrong = {key for key in wanted if found[key] != wanted[key]}
        assert wrong <= APART, {key: (found[key], wanted[key]) for key in wrong - APART}
        # Only where there are masks.
        assert ("INPUT.MASK_FORMAT" in wrong) == bool(expected.get("MODEL.MASK_ON")), name


def test_the_supervised_baseline_is_fed_and_built_as_caffes(make_encoder):
    from detectron2.config import get_cfg

    from moco_eval.engines.detectron.configuration import flat

    encoder = make_encoder("resnet50_v1", CAFFE)
    # Its files leave Detectron2's defaults, which are Caffe's: BGR, s.d. 1, stride in the 1x1.
    for name, expected in (("voc-c4-24k", VOC), ("coco-c4-2x", COCO_C4_2X)):
        num_classes = expected.get("MODEL.ROI_HEADS.NUM_CLASSES")
        found = flat(configured(RECIPES[name], encoder, num_classes=num_classes))
        assert found["MODEL.RESNETS.STRIDE_IN_1X1"]
        assert found["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
        wanted = flat(get_cfg()) | expected
        assert {key for key in wanted if found[key] != wanted[key]} <= APART


@pytest.mark.parametrize(
    ("recipe", "world_size", "device_type", "norm"),
    [
        ("voc-c4-24k", 1, "cuda", "BN"),
        ("coco-fpn-1x", 1, "cpu", "BN"),
        ("voc-c4-24k", 8, "cuda", "naiveSyncBN"),
        ("coco-fpn-1x", 8, "cuda", "SyncBN"),
        # torch's refuses the CPU.
        ("coco-fpn-1x", 2, "cpu", "naiveSyncBN"),
    ],
)
def test_the_norm_is_chosen_by_the_devices_and_said(
    make_encoder, recipe, world_size, device_type, norm
):
    from moco_eval.engines.detectron.configuration import choose_norm

    name, said = choose_norm(
        RECIPES[recipe], make_encoder(), world_size=world_size, device_type=device_type
    )
    assert name == norm
    each = 16 // world_size
    on = "one device" if world_size == 1 else f"{world_size} devices of {each} images each"
    assert said.startswith(f"{norm}: ")
    assert on in said
    assert str(each) in said


def test_frozen_parts_are_said(resnet50):
    frozen = configured(RECIPES["coco-fpn-1x-frozen"], resnet50).MODEL
    assert (frozen.BACKBONE.FREEZE_AT, frozen.RESNETS.NORM) == (5, "FrozenBN")
    # The pyramid is new, and its norms are trained.
    assert frozen.FPN.NORM == "SyncBN"


def test_entries_that_nothing_decides_are_taken(resnet50):
    recipe = dataclasses.replace(
        RECIPES["coco-fpn-1x"],
        opts=(
            "MODEL.RPN.NMS_THRESH=0.6",
            "MODEL.ROI_BOX_HEAD.FC_DIM=32",
            "MODEL.RPN.CONV_DIMS=[8,8]",
        ),
    )
    model = configured(recipe, resnet50).MODEL
    assert (model.RPN.NMS_THRESH, model.ROI_BOX_HEAD.FC_DIM) == (0.6, 32)
    assert model.RPN.CONV_DIMS == [8, 8]


@pytest.mark.parametrize(
    ("opt", "said"),
    [
        ("INPUT.FORMAT=BGR", r"'RGB' here: the encoder's manifest decides it.*--input"),
        ("MODEL.PIXEL_STD=[1,1,1]", r"58\.395.*the encoder's manifest decides it"),
        ("MODEL.RESNETS.STRIDE_IN_1X1=True", "False here: the encoder's own tensors decide it"),
        ("MODEL.RESNETS.DEPTH=101", "50 here: the encoder's own tensors decide it"),
        ("MODEL.BACKBONE.FREEZE_AT=2", r"the recipe's freeze decides it.*--set freeze=\.\.\."),
        ("SOLVER.BASE_LR=0.1", r"0\.02 here: the recipe's lr decides it.*--set lr=\.\.\."),
        ("MODEL.ROI_HEADS.NUM_CLASSES=3", "80 here: the data set decides it"),
        ("MODEL.META_ARCHITECTURE=RetinaNet", r"--set detector=\.\.\."),
        ("MODEL.WEIGHTS=R-50.pkl", "Load another encoder"),
        ("MODEL.DEVICE=cuda", "this machine decides it"),
        # Our loop would not read it.
        ("SOLVER.NESTEROV=True", "it would change nothing"),
        ("MODEL.RPN.NMS_TRESH=0.6", r"no entry .*Did you mean 'MODEL\.RPN\.NMS_THRESH'"),
        ("MODEL.RPN.NMS_THRESH=high", "is not taken by Detectron2, whose value there is 0.7"),
        ("MODEL.RPN.NMS_THRESH", "is no KEY=VALUE"),
    ],
)
def test_an_entry_that_contradicts_encoder_or_recipe_is_refused(resnet50, opt, said):
    recipe = dataclasses.replace(RECIPES["coco-fpn-1x"], opts=(opt,))
    with pytest.raises(UsageError, match=said):
        configured(recipe, resnet50)


def test_a_pyramid_wants_a_size_of_anchors_for_each_level(resnet50):
    recipe = dataclasses.replace(RECIPES["coco-fpn-1x"], anchor_sizes=(32, 64))
    with pytest.raises(UsageError, match=r"5 levels, p2, p3, p4, p5, p6.*\(32, 64\) has 2"):
        configured(recipe, resnet50)


def test_what_detectron2_cannot_build_by_itself_has_a_name_that_it_refuses(make_encoder):
    # A 3x3 stem; its strides are 2 to 16, and levels are called by them.
    cfg = configured(RECIPES["coco-fpn-1x"], make_encoder())
    assert cfg.MODEL.BACKBONE.NAME == "moco_eval:resnet10_small"
    assert cfg.MODEL.RPN.IN_FEATURES == ["p1", "p2", "p3", "p4", "p5"]
    # Depth 18 as Detectron2 knows it, but for the stem.
    cifar = make_encoder("resnet18_cifar")
    assert configured(RECIPES["coco-fpn-1x"], cifar).MODEL.BACKBONE.NAME.endswith("_cifar")
    # A 7x7 stem of basic blocks: with a pyramid it can, dilated or in C4 it cannot.
    resnet18 = make_encoder("resnet18")
    assert configured(RECIPES["coco-fpn-1x"], resnet18).MODEL.RESNETS.DEPTH == 18
    cfg = configured(RECIPES["voc-dc5-24k"], resnet18)
    assert cfg.MODEL.BACKBONE.NAME == "moco_eval:resnet18"


@pytest.mark.parametrize(
    "name", ["coco-fpn-1x", "coco-keypoint-fpn-2x", "coco-retinanet-1x", "voc-dc5-24k"]
)
def test_detectron2_builds_the_same_model_from_the_configuration(narrow, name):
    from detectron2.modeling import build_model

    from moco_eval.engines.detectron import build

    detector = build(narrow, RECIPES[name], num_classes=3, num_keypoints=5)
    theirs = build_model(detector.cfg).state_dict()
    ours = detector.model.state_dict()
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    assert set(detector.settings()) > {"MODEL.RESNETS.WIDTH_PER_GROUP", "SOLVER.MAX_ITER"}
    assert detector.settings()["MODEL.RESNETS.NORM"] == "BN"
    assert detector.settings()["norms"].startswith("BN: each sees the 16 images of one device")
