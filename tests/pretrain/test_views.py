import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval.data.images import denormalize
from pretrain.views import Views, input_of, view_function


def photo(seed: int = 0) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["mocov1", "mocov2", "digits"])
def test_a_view_has_the_asked_size_and_three_channels(name):
    view = view_function(name, 24)(photo())
    assert view.shape == (3, 24, 24)
    assert view.dtype == torch.float32


@pytest.mark.parametrize("name", ["mocov1", "mocov2", "digits"])
def test_a_view_depends_on_its_key_alone(name):
    views = Views([photo(), photo(1)], view_function(name, 24), seed=3, num_views=2)
    first, second, _ = views[0, 0]
    torch.rand(5)  # what was drawn before
    views[7, 1]
    again, _, _ = views[0, 0]
    other_epoch, _, _ = views[1, 0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other_epoch)


def test_another_seed_draws_other_views():
    draw = view_function("mocov2", 24)
    one, two = (Views([photo()], draw, seed=s, num_views=1)[0, 0][0] for s in (0, 1))
    assert not torch.equal(one, two)


def test_the_sample_comes_last_for_its_label():
    *_, sample = Views([photo()] * 4, view_function("digits", 8), seed=0, num_views=2)[0, 3]
    assert sample.item() == 3


def test_mocov2_views_span_the_papers_distributions():
    # Grayscale with p = 0.2 makes the three channels equal; 400 views, s.d. 0.02.
    views = Views([photo()], view_function("mocov2", 16), seed=0, num_views=400)[0, 0][:-1]
    spec = input_of("mocov2", 16)
    colourless = 0
    for view in views:
        pixels = denormalize(view, spec)
        colourless += bool((pixels - pixels.mean(0)).abs().max() < 0.01)
    assert 0.13 < colourless / 400 < 0.27


def test_digit_views_are_never_mirrored():
    # Ink in the left half only stays mostly left under every shift, turn and zoom.
    ink = np.zeros((8, 8), np.uint8)
    ink[2:6, 0:3] = 255
    views = Views([Image.fromarray(ink)], view_function("digits", 32), seed=0, num_views=64)
    for view in views[0, 0][:-1]:
        pixels = denormalize(view, input_of("digits", 32)).mean(0)
        assert pixels[:, :16].sum() > pixels[:, 16:].sum()
