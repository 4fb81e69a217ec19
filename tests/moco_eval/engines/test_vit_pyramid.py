"""Plain transformers in detectors: the encoder's blocks, ViTDet's pyramid, on both engines."""

import dataclasses

import pytest
import torch

from moco_eval import engines
from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network
from moco_eval.engines.examples import Example
from moco_eval.engines.gate import check_backbone
from moco_eval.engines.optimizer import build_optimizer
from moco_eval.engines.recipes import RECIPES
from moco_eval.engines.transformer import last_map, trunk_tensors
from moco_eval.errors import CheckpointError, UsageError

detectron2 = [
    pytest.mark.detectron2,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]
# Where only one of the two engines is named, the other's test is skipped without Detectron2.
ENGINES = ["torchvision", pytest.param("detectron2", marks=detectron2)]
WIDTH = 32


def vit(options="", spec=None):
    """Two blocks of timm's ViT for 64 pixels, of random weights, positions and norms too."""
    given = dict(pair.split("=", 1) for pair in options.split(",") if pair)
    numbers = {"depth": 2, "embed_dim": WIDTH, "img_size": 64, "num_heads": 2} | given
    arch = "timm:vit_tiny_patch16_224:" + ",".join(f"{k}={v}" for k, v in sorted(numbers.items()))
    return random_encoder(arch, spec or InputSpec(size=64))


def random_encoder(arch, spec):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = build_network(arch)
        for tensor in network.state_dict().values():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    manifest = Manifest(source=arch, format="test", tower="", arch=arch, input=spec, num_loaded=0)
    return Encoder(network, manifest)


def recipe_of(detector="fpn", **more):
    numbers = {
        "detector": detector,
        "rpn_pre_nms": (60, 60),
        "rpn_post_nms": (20, 20),
        "rpn_batch": 12_000,
        "roi_batch": 4000,
        "mask_channels": 8,
    }
    return dataclasses.replace(RECIPES["small-fpn"], **numbers | more)


def build(encoder, recipe, engine="torchvision"):
    if engine == "torchvision":
        from moco_eval.engines.torchvision import build
    else:
        from moco_eval.engines.detectron import build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build(encoder, recipe, num_classes=2)


def noise(*, height=80, width=112, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draw)


def example(**size):
    pixels = noise(**size)
    boxes = torch.tensor([[8.0, 8, 40, 40], [44, 30, 90, 60]])
    return Example(
        pixels=pixels, size=tuple(pixels.shape[1:]), boxes=boxes, labels=torch.tensor([0, 1])
    )


def copy(theirs, ours):
    ours.load_state_dict(theirs.state_dict())


def copy_pyramid(theirs, ours):
    """Detectron2's pyramid into ours, layer by layer in order; norms get values of their own."""
    backbone = theirs.model.backbone
    mine = [p for stage in ours.body.stages for p in stage.parameters()]
    other = [p for stage in backbone.stages for p in stage.parameters()]
    # Before it is copied no norm has learnt anything.
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for a, b in zip(mine, other, strict=True):
            assert a.shape == b.shape
            b.add_(0.1 * torch.randn(b.shape, generator=draw))
            a.copy_(b)
    if ours.body.top is not None:
        copy(backbone.top_block, ours.body.top)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("detector", ["fpn", "retinanet"])
@pytest.mark.parametrize(
    "options",
    ["", "init_values=0.5", "class_token=false,global_pool=avg", "patch_size=8", "patch_size=32"],
)
def test_the_gate_passes_a_transformer(engine, detector, options):
    encoder = vit(options)
    detector = build(encoder, recipe_of(detector), engine)
    proof = check_backbone(detector, encoder, noise())
    # Positions, the patches' two, and of 2 blocks 2 norms and 4 layers, each of two tensors.
    assert proof.num_tensors == 1 + 2 + 2 * 6 * 2
    assert proof.difference_by_level["last"] < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gate_sees_a_tensor_of_a_transformer(engine):
    encoder = vit("init_values=0.5")
    detector = build(encoder, recipe_of(), engine)
    with torch.no_grad():
        detector.backbone()["blocks.1.mlp.fc2.weight"][0, 0] += 1e-3
    with pytest.raises(CheckpointError, match=r"different: blocks\.1\.mlp\.fc2\.weight"):
        check_backbone(detector, encoder, noise())


def test_the_gate_sees_positions_in_another_place():
    encoder = vit()
    detector = build(encoder, recipe_of())
    detector.body.network.forward = lambda images: last_map(detector.body.network, images.flip(3))
    with pytest.raises(CheckpointError, match="features at last: off by"):
        check_backbone(detector, encoder, noise())


def test_the_gate_says_that_a_transformer_sees_colours_turned_round():
    encoder = vit(spec=InputSpec(size=64, mean=(0.2, 0.4, 0.6)))
    detector = build(encoder, recipe_of())
    detector.input = dataclasses.replace(detector.input, channel_order="BGR")
    with pytest.raises(CheckpointError, match="is fed BGR with the mean and std of RGB"):
        check_backbone(detector, encoder, noise())


def test_the_last_map_is_timms_own_where_no_class_token_is_in_the_way():
    encoder = vit("class_token=false,global_pool=avg,init_values=0.5")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        [expected] = encoder.network.forward_intermediates(
            images, indices=1, norm=False, intermediates_only=True
        )
        assert torch.allclose(last_map(encoder.network, images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("patch", "fpn"),
    [(16, [4, 8, 16, 32, 64]), (8, [2, 4, 8, 16, 32]), (32, [8, 16, 32, 64, 128])],
)
def test_the_pyramids_strides_follow_the_patch(patch, fpn):
    encoder = vit(f"patch_size={patch}")
    body = build(encoder, recipe_of()).body
    assert list(body.strides.values()) == fpn
    assert list(body.pooled) == list(body.strides)[:4]
    # The image is padded to the coarsest of the maps that are made of the transformer's.
    assert body.multiple == 2 * patch
    maps = body(torch.zeros(1, 3, 128, 192))
    sizes = {name: (128 // stride, 192 // stride) for name, stride in body.strides.items()}
    sizes[list(sizes)[-1]] = (-(-128 // fpn[-1]), -(-192 // fpn[-1]))
    assert {name: tuple(each.shape[2:]) for name, each in maps.items()} == sizes
    one_stage = build(encoder, recipe_of("retinanet")).body
    assert list(one_stage.strides.values()) == [*fpn[1:], 2 * fpn[-1]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("detector", ["c4", "dc5"])
def test_a_detector_of_stages_refuses_a_transformer_and_names_recipes(engine, detector):
    with pytest.raises(UsageError, match=r"plain transformer of one map.*small-fpn, coco-fpn-1x"):
        build(vit(), recipe_of(detector), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("patch_size=14,img_size=56", "patches of 14x14 pixels"),
        ("patch_size=2,img_size=16", "has patches of 2 pixels"),
        ("reg_tokens=4", "4 register tokens"),
        ("qk_norm=true", "norms of queries and keys"),
    ],
)
def test_what_vitdet_has_no_place_for_is_refused(engine, options, reason):
    with pytest.raises(UsageError, match=reason):
        build(vit(options), recipe_of(), engine)


def test_a_pyramid_of_a_transformer_has_norms():
    with pytest.raises(UsageError, match="pyramid_norm=true"):
        build(vit(), recipe_of(pyramid_norm=False))


@pytest.mark.parametrize("number", [{"drop_path": 0.1}, {"layer_decay": 0.7}])
def test_numbers_for_blocks_are_refused_where_there_are_none(make_encoder, number):
    with pytest.raises(UsageError, match="is for the blocks of a plain transformer"):
        build(make_encoder(), recipe_of(**number))


@pytest.mark.parametrize("engine", ENGINES)
def test_branches_are_left_out_in_training_alone(engine):
    encoder = vit()
    detector = build(encoder, recipe_of(drop_path=0.5), engine)
    found = detector.backbone()
    assert found.keys() == trunk_tensors(encoder).keys()
    check_backbone(detector, encoder, noise())
    kinds = [m for m in detector.modules() if type(m).__name__ == "DropPath"]
    # Block by block from 0 to the rate, in both branches; Detectron2's share a module.
    rates = [m.drop_prob for m in kinds]
    assert rates[-1] == 0.5
    assert 0.0 in rates or engine == "detectron2"
    detector.train()
    with torch.no_grad():
        levels = [_last(detector, engine) for _ in range(8)]
    assert any(not torch.equal(levels[0], each) for each in levels)


def test_a_frozen_transformer_leaves_nothing_out():
    detector = build(vit(), recipe_of(drop_path=0.5, freeze="encoder")).train()
    with torch.no_grad():
        levels = [_last(detector, "torchvision") for _ in range(4)]
    assert all(torch.equal(levels[0], each) for each in levels)
    assert not any(p.requires_grad for p in detector.body.network.parameters())
    assert all(p.requires_grad for p in detector.body.stages.parameters())


def _last(detector, engine):
    network = detector.body.network if engine == "torchvision" else detector.model.backbone.net
    found = network(torch.ones(4, 3, 64, 64))
    return found if engine == "torchvision" else found["last_feat"]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_block_learns_more_slowly_than_the_next(engine):
    recipe = recipe_of(optimizer="adamw", layer_decay=0.5)
    detector = build(vit(), recipe, engine)
    scales = {}
    names = {p: name for name, p in detector.named_parameters()}
    for group in build_optimizer(detector, recipe).param_groups:
        scales |= {names[p]: group["lr_scale"] for p in group["params"]}
    # Above two blocks come the heads at the full rate; the patches are the third layer below.
    wanted = {"pos_embed": 1 / 8, "patch_embed": 1 / 8, "blocks.0.": 1 / 4, "blocks.1.": 1 / 2}
    for part, scale in wanted.items():
        found = {value for name, value in scales.items() if f".{part}" in name}
        assert found == {scale}
    assert {v for n, v in scales.items() if not any(f".{part}" in n for part in wanted)} == {1}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("detector", "freeze"), [("fpn", "none"), ("fpn", "encoder"), ("retinanet", "none")]
)
def test_a_transformers_detector_trains_and_detects(engine, detector, freeze):
    recipe = recipe_of(detector, freeze=freeze, score_threshold=0.0)
    detector = build(vit(), recipe, engine).train()
    losses = detector([example(), example(seed=3)])
    torch.stack(list(losses.values())).sum().backward()
    trained = {name for name, p in detector.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in detector.named_parameters() if p.requires_grad}
    own = [tensor for tensor in detector.backbone().values() if tensor.requires_grad]
    assert not own or freeze == "none"
    assert len(detector.eval().detect(example()).boxes)


def test_mocos_and_timms_transformers_go_to_the_engine_that_is_there(monkeypatch):
    encoder = random_encoder("vit_digits", InputSpec(size=32))
    monkeypatch.setattr(engines, "has_detectron2", lambda: True)
    assert engines.choose("auto", encoder) == "detectron2"
    assert engines.choose("detectron2", encoder) == "detectron2"
    monkeypatch.setattr(engines, "has_detectron2", lambda: False)
    assert engines.choose("auto", encoder) == "torchvision"
    # Patches of 4 pixels: the pyramid begins with the image's own resolution.
    assert list(build(encoder, recipe_of()).body.strides) == ["p0", "p1", "p2", "p3", "p4"]


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
@pytest.mark.parametrize("detector", ["fpn", "retinanet"])
@pytest.mark.parametrize("options", ["init_values=0.5", "patch_size=8"])
def test_from_equal_weights_both_engines_maps_and_gradients_are_equal(detector, options):
    encoder = vit(options)
    theirs, ours = (
        build(encoder, recipe_of(detector), name) for name in ("detectron2", "torchvision")
    )
    copy_pyramid(theirs, ours)
    # Neither fills its last patches.
    batch = [example(height=75), example(width=100, seed=2)]
    images = ours.images([each.pixels for each in batch]).tensors
    inputs = [{"image": each.pixels} for each in batch]
    given = theirs.model.preprocess_image(inputs).tensor
    assert given.shape == images.shape
    assert torch.allclose(given, images, atol=1e-5)
    expected, found = theirs.model.backbone(given), ours.body(images)
    assert expected.keys() == found.keys()
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape
        assert (found[name] - wanted).norm() < 1e-4 * wanted.norm()
    for maps in (expected, found):
        sum(each.square().mean() for each in maps.values()).backward()
    grads = {name: each.grad for name, each in theirs.model.backbone.net.named_parameters()}
    for name, parameter in ours.body.network.named_parameters():
        wanted = grads[name]
        assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm() + 1e-9, name
