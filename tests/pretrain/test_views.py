"""The interface of the views: what the loader and the training process rely on."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms import v2

from moco_eval.data.images import denormalize, normalize
from moco_eval.errors import UsageError
from pretrain.view_parameters import DISTRIBUTIONS
from pretrain.views import ENGINES, augmentation, input_of

ALL = [(views, engine) for views in DISTRIBUTIONS for engine in ENGINES] + [("digits", "reference")]


def photo(seed: int = 0) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def finished(drawing, images, keys):
    return drawing.finish(default_collate([drawing.draw(image, keys) for image in images]), "cpu")


@pytest.mark.parametrize(("views", "engine"), ALL)
def test_views_arrive_as_floats_of_the_asked_size(views, engine):
    arrived = finished(augmentation(views, 24, engine=engine), [photo(), photo(1)], (3, 4))
    assert len(arrived) == 2
    for view in arrived:
        assert view.shape == (2, 3, 24, 24)
        assert view.dtype == torch.float32


@pytest.mark.parametrize(("views", "engine"), ALL)
def test_a_view_depends_on_its_image_and_its_key_alone(views, engine):
    drawing = augmentation(views, 24, engine=engine)
    first, second = finished(drawing, [photo()], (3, 9))
    torch.rand(5)  # what was drawn before
    drawing.draw(photo(1), (1, 2))
    again = finished(drawing, [photo(1), photo()], (3, 9))[0]
    assert torch.equal(first[0], again[1])
    assert not torch.equal(again[0], again[1])
    assert not torch.equal(first, second)
    other_key = finished(drawing, [photo()], (4, 9))[0]
    assert not torch.equal(first, other_key)


@pytest.mark.parametrize("engine", ENGINES)
def test_drawing_leaves_torchs_own_generator_alone(engine):
    before = torch.get_rng_state()
    augmentation("mocov2", 24, engine=engine).draw(photo(), (3, 4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("num_views", [1, 3])
def test_any_number_of_views_is_drawn(engine, num_views):
    drawing = augmentation("mocov3", 24, engine=engine, num_views=num_views)
    assert drawing.num_views == num_views
    assert len(finished(drawing, [photo()], range(num_views))) == num_views


@pytest.mark.parametrize(("views", "engine"), ALL)
def test_an_augmentation_can_be_sent_to_a_worker(views, engine):
    drawing = augmentation(views, 24, engine=engine)
    assert pickle.loads(pickle.dumps(drawing)) == drawing


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_an_image_of_any_mode_is_seen_in_its_colours(engine, mode):
    image = Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode)
    drawing = augmentation("mocov3", 8, engine=engine)
    # The first key that jitters nothing leaves white white, blurred or not.
    keys = [key for key in range(60) if not white_is_changed(key)]
    view = finished(drawing, [image], keys[:1])[0]
    assert denormalize(view, drawing.spec).min() > 0.999


def white_is_changed(key: int) -> bool:
    view = augmentation("mocov3", 8).draw(Image.new("RGB", (40, 40), "white"), [key])[0]
    return bool(denormalize(view, input_of("mocov3", 8)).min() < 0.999)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_truncated_file_is_an_error_and_not_a_view(engine):
    file = io.BytesIO()
    photo().save(file, "JPEG")
    half = io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(OSError, match="truncated"):
        augmentation("mocov2", 24, engine=engine).draw(Image.open(half), (3, 4))


def test_cifar_views_are_normalised_by_cifars_own_statistics():
    # White is (1 - mean) / std: (1 - 0.4914) / 0.2023 = 2.514 in the first channel.
    drawing = augmentation("cifar10", 32)
    views = [drawing.draw(Image.new("RGB", (32, 32), "white"), [key])[0] for key in range(20)]
    assert max(view[0].max().item() for view in views) == pytest.approx(2.514, abs=0.001)
    # A CIFAR image at its own size is shown whole.
    assert input_of("cifar10", 32).crop_pct == 1.0


def test_digit_views_are_torchvisions_under_the_keys_seed():
    # The digits' records were made with these draws.
    recipe = v2.Compose(
        [
            v2.Resize((32, 32), antialias=True),
            v2.RandomAffine(
                15, (0.1, 0.1), (0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.ColorJitter(brightness=0.4),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.GaussianNoise(sigma=0.05),
        ]
    )
    image = photo().convert("L")
    drawn = augmentation("digits", 32).draw(image, (5, 6))
    for view, key in zip(drawn, (5, 6), strict=True):
        torch.manual_seed(key)
        assert torch.equal(view, normalize(recipe(image.convert("RGB")), input_of("digits", 32)))


def test_digit_views_are_never_mirrored():
    # Ink in the left half only stays mostly left under every shift, turn and zoom.
    ink = np.zeros((8, 8), np.uint8)
    ink[2:6, 0:3] = 255
    for view in augmentation("digits", 32).draw(Image.fromarray(ink), range(64)):
        pixels = denormalize(view, input_of("digits", 32)).mean(0)
        assert pixels[:, :16].sum() > pixels[:, 16:].sum()


@pytest.mark.parametrize("engine", ["fast", "device"])
def test_digits_have_the_reference_alone(engine):
    with pytest.raises(UsageError, match=rf"no engine '{engine}'.*'reference'"):
        augmentation("digits", 32, engine=engine)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"no augmentation 'mocov4'\. Did you mean 'mocov"):
        augmentation("mocov4", 32)
    with pytest.raises(UsageError, match=r"no engine of views 'fats'\. Did you mean 'fast'"):
        augmentation("mocov2", 32, engine="fats")
