"""The network: its loss, what of it is frozen, and whole images of any size."""

import math

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval import distributed
from moco_eval.data.images import DIGITS_INPUT, InputSpec, normalize
from moco_eval.errors import UsageError
from moco_eval.semantic.model import Segmenter

VIT = "timm:vit_tiny_patch16_224:img_size=32,patch_size=8,depth=1,embed_dim=24,num_heads=1"


def constant(model, logits):
    """Let the head say the same of every pixel."""
    torch.nn.init.zeros_(model.head[-1].weight)
    model.head[-1].bias.data = torch.tensor(logits)
    return model


@pytest.fixture
def build(make_encoder, few_updates):
    def build(name="digits-fcn", *, encoder=None, num_classes=2, **changes):
        encoder = encoder or make_encoder()
        return Segmenter(encoder, few_updates(name, **changes), num_classes=num_classes, seed=0)

    return build


def test_the_loss_is_the_mean_over_pixels_with_a_class(build):
    # Of two classes the second has three quarters of the chance.
    model = constant(build(), [0.0, math.log(3)])
    labels = torch.full((2, 9, 9), 255, dtype=torch.uint8)
    labels[0, 0, 0], labels[0, 4, 5], labels[1, 8, 8] = 0, 1, 1
    loss = model([torch.randn(2, 3, 9, 9), labels])
    assert list(loss) == ["loss_pixel"]
    expected = (math.log(4) + 2 * math.log(4 / 3)) / 3
    assert loss["loss_pixel"].item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_any_class_has_no_loss(build):
    model = build()
    loss = model([torch.randn(2, 3, 9, 9), torch.full((2, 9, 9), 255, dtype=torch.uint8)])
    loss["loss_pixel"].backward()
    assert loss["loss_pixel"].item() == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def loss_on_rank(encoder, recipe):
    """Rank 0 sees three pixels with a class, rank 1 one."""
    model = constant(Segmenter(encoder, recipe, num_classes=2, seed=0), [0.0, math.log(3)])
    labels = torch.full((1, 9, 9), 255, dtype=torch.uint8)
    labels[0, 0, : 3 - 2 * distributed.rank()] = distributed.rank()
    loss = model([torch.zeros(1, 3, 9, 9), labels])["loss_pixel"]
    return loss.item()


def test_the_mean_over_ranks_is_the_mean_over_all_pixels(on_ranks, make_encoder, few_updates):
    losses = on_ranks(2, loss_on_rank, make_encoder(), few_updates())
    expected = (3 * math.log(4) + math.log(4 / 3)) / 4
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arch", ["resnet10_small", VIT])
@pytest.mark.parametrize("name", ["digits-fcn", "digits-linear"])
def test_an_image_is_judged_whole_as_if_the_mean_lay_around_it(build, make_encoder, arch, name):
    spec = InputSpec(size=32, mean=(0.5, 0.25, 0.125), std=(0.5, 0.5, 0.5))
    model = build(name, encoder=make_encoder(arch, spec), num_classes=4).eval()
    torch.nn.init.normal_(model.head[-1].weight)
    pixels = torch.randint(0, 256, (37, 50, 3), dtype=torch.uint8)
    found = model.predict(Image.fromarray(pixels.numpy()))
    assert found.shape == (37, 50)
    assert len(found.unique()) > 1
    # Made by hand: to 41x57 pixels for points of stride 8, 49x65 of 16, 40x56 for patches of 8.
    points = {"digits-fcn": (41, 57), "digits-linear": (49, 65)}[name]
    height, width = (40, 56) if arch == VIT else points
    whole = torch.zeros(1, 3, height, width)
    whole[..., :37, :50] = normalize(pixels.movedim(2, 0), spec)
    with torch.no_grad():
        logits = model.head(model.map.compute(whole))
        spread = F.interpolate(
            logits, size=(height, width), mode="bilinear", align_corners=arch != VIT
        )
    assert torch.equal(found, spread[0, :, :37, :50].argmax(0))


def test_a_crop_that_ends_on_a_point_is_not_padded(build):
    model = build(num_classes=3).eval()
    images = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        expected = F.interpolate(
            model.head(model.map.compute(images)),
            size=(33, 33),
            mode="bilinear",
            align_corners=True,
        )
        assert torch.allclose(model.logits(images), expected)


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved_by_a_step(model):
    """What one large step changes."""
    model.train()
    before = states(model)
    labels = torch.randint(0, 2, (2, 33, 33), dtype=torch.uint8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model([torch.randn(2, 3, 33, 33), labels])["loss_pixel"].backward()
    optimizer.step()
    after = model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


def test_everything_is_trained_unless_the_recipe_freezes_it(build):
    model = build()
    assert moved_by_a_step(model) == set(model.state_dict())


def test_frozen_norms_keep_weights_and_statistics(build):
    model = build(freeze="norms")
    still = set(model.state_dict()) - moved_by_a_step(model)
    norms = {name for name in model.state_dict() if ".bn" in name or "downsample.1." in name}
    assert still == norms
    # The head's own norms are trained.
    assert "head.1.running_mean" not in still


def test_a_frozen_encoder_is_left_alone_under_either_head(build):
    for name in ("digits-fcn", "digits-linear"):
        model = build(name, freeze="encoder")
        moved = moved_by_a_step(model)
        assert {each.partition(".")[0] for each in moved} == {"head"}
        assert not model.network.training


def test_the_encoder_stays_as_it_is(build, make_encoder):
    encoder = make_encoder()
    before = encoder.tensor_sha256()
    moved_by_a_step(build(encoder=encoder))
    assert encoder.tensor_sha256() == before
    assert encoder.network.layer4[0].conv1.stride == (2, 2)


def test_the_seed_alone_decides_the_head(make_encoder, few_updates):
    def head(seed):
        model = Segmenter(make_encoder(), few_updates(), num_classes=2, seed=seed)
        return model.head[0].weight

    first, again, other = head(1), head(1), head(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    head(3)
    assert torch.equal(torch.rand(1), expected)


def test_the_linear_head_is_a_norm_and_a_classifier_on_the_undilated_map(build):
    model = build("digits-linear", num_classes=5)
    kinds = [type(layer).__name__ for layer in model.head]
    assert kinds == ["BatchNorm2d", "Conv2d"]
    assert model.head[1].weight.shape == (5, 128, 1, 1)
    assert model.settings() == {"stride": 16, "dilated": False}


def test_an_encoder_of_grey_images_and_other_colours_is_fed_as_it_wants(build, make_encoder):
    # BGR: the same picture with its channels swapped for an encoder that is told otherwise.
    spec = InputSpec(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channel_order="BGR")
    encoder = make_encoder("resnet10_small", spec)
    model = build(encoder=encoder).eval()
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    expected = encoder.levels(normalize(pixels[None], spec))
    for level, found in model.levels(pixels).items():
        assert torch.allclose(found, expected[level], atol=1e-5)


def test_a_linear_head_on_a_trained_encoder_is_refused(few_updates):
    with pytest.raises(UsageError, match="freeze=encoder, not none"):
        few_updates("digits-linear", freeze="none")
    with pytest.raises(UsageError, match="crop=0"):
        few_updates(crop=0)
    with pytest.raises(UsageError, match="no range of positive numbers"):
        few_updates(scales=(2.0, 0.5))


def test_pixels_are_rgb_whatever_the_file(build):
    model = build().eval()
    grey = Image.fromarray(torch.randint(0, 256, (20, 20), dtype=torch.uint8).numpy())
    assert torch.equal(model.predict(grey), model.predict(grey.convert("RGB")))
    assert pil_to_tensor(grey).shape[0] == 1
    assert model.input == DIGITS_INPUT
