"""The loop: one step by hand, exact resumption, and logits of every image once."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from moco_eval.data.images import DIGITS_INPUT, to_input
from moco_eval.errors import DivergedError, PreemptedError
from moco_eval.training import loop
from moco_eval.training.classifier import Classifier
from moco_eval.training.crops import Places, TrainingCrops
from moco_eval.training.loop import Job, fit, predict
from moco_eval.training.recipe import Plan, Recipe

RECIPE = Recipe(
    lr=(0.1,), weight_decay=(0.01,), batch_total=8, num_steps=6, optimizer="nesterov", flip=False
)
DRAW = np.random.RandomState(0)
IMAGES = [Image.fromarray(DRAW.randint(0, 256, (12, 12), dtype=np.uint8)) for _ in range(20)]
LABELS = [number % 3 for number in range(20)]


class StopAfter:
    """Images of which the one that is looked at as number ``asked`` brings a request to stop."""

    def __init__(self, asked):
        self.left = asked

    def __len__(self):
        return 20

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return IMAGES[index]


def fitted(encoder, folder, *, recipe=RECIPE, images=IMAGES, num_workers=0):
    model = Classifier(encoder, 3, seed=0)
    job = Job(name="test", folder=folder, arch="any", run={}, seed=4, num_workers=num_workers)
    crops = TrainingCrops(images, LABELS, DIGITS_INPUT, recipe, seed=4)
    fit(model, Plan(recipe, 20), crops, job)
    return model


def last_checkpoint(folder):
    return max(folder.glob("checkpoints/step-*/checkpoint.pth.tar"))


def test_steps_are_those_of_a_plain_loop(make_encoder, tmp_path):
    recipe = replace(RECIPE, num_steps=2, label_smoothing=0.1, warmup_epochs=1)
    found = fitted(make_encoder(), tmp_path, recipe=recipe)

    model = Classifier(make_encoder(), 3, seed=0).train()
    sgd = torch.optim.SGD(model.parameters(), 9, momentum=0.9, weight_decay=0.01, nesterov=True)
    crops = TrainingCrops(IMAGES, LABELS, DIGITS_INPUT, recipe, seed=4)
    # An epoch, and so the rise, has 20 / 8 steps: but for 2 of them there is no time.
    for places, lr in zip(Places(20, 8, seed=4, steps=range(2)), (0.0, 0.05), strict=True):
        images = torch.stack([crops[place][0] for place in places])
        labels = torch.tensor([LABELS[image] for _, _, image in places])
        sgd.param_groups[0]["lr"] = lr
        sgd.zero_grad()
        F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        sgd.step()
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], expected, msg=name)
    # The statistics of BatchNorm moved as well: the network is not frozen.
    before = make_encoder().network.state_dict()["bn1.running_mean"]
    assert not torch.equal(found.state_dict()["encoder.bn1.running_mean"], before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_was_stopped_ends_in_the_same_bytes(make_encoder, tmp_path, precision):
    # With all that is drawn: crops, distortions, mixtures, branches left out.
    recipe = replace(
        RECIPE,
        lr=(1e-3,),
        optimizer="adamw",
        drop_path=0.2,
        mixup=0.8,
        cutmix=1.0,
        randaugment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        layer_decay=0.75,
        decay_vectors=False,
        repeats=2,
        precision=precision,
    )
    encoder = make_encoder("vit_digits")
    fitted(encoder, tmp_path / "whole", recipe=recipe)
    # 8 images a step: the 20th is of the third one.
    with pytest.raises(PreemptedError, match=r"^Stopped by SIGTERM after step 3 of 6; .*contin"):
        fitted(encoder, tmp_path / "cut", recipe=recipe, images=StopAfter(20))
    assert last_checkpoint(tmp_path / "cut").parent.name == "step-00000003"
    torch.rand(5), np.random.rand(5)
    before = torch.random.get_rng_state()
    fitted(encoder, tmp_path / "cut", recipe=recipe)
    assert torch.equal(torch.random.get_rng_state(), before)
    whole, cut = (last_checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert whole.parent.name == cut.parent.name == "step-00000006"
    assert whole.read_bytes() == cut.read_bytes()


def test_what_is_mixed_and_left_out_is_drawn_by_seed_and_step(make_encoder):
    encoder = make_encoder("vit_digits")
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3

    def loss(*, seed, step, **changes):
        plan = Plan(replace(RECIPE, **changes), 20)
        state = loop._initial_state(Classifier(encoder, 3, seed=0), plan)
        with torch.no_grad():
            state.model.head.weight.mul_(100)
        with torch.random.fork_rng(devices=[]):
            batch = [images.clone(), labels]
            return loop.backward(state, batch, plan, seed=seed, step=step).item()

    for changes in ({"mixup": 0.8}, {"drop_path": 0.5}):
        first = loss(seed=0, step=0, **changes)
        assert loss(seed=0, step=0, **changes) == first
        assert loss(seed=0, step=1, **changes) != first
        assert loss(seed=1, step=0, **changes) != first


def test_the_number_of_workers_changes_nothing(make_encoder, tmp_path):
    for num_workers in (0, 2):
        fitted(make_encoder(), tmp_path / f"{num_workers}", num_workers=num_workers)
    one, two = (last_checkpoint(tmp_path / name).read_bytes() for name in ("0", "2"))
    assert one == two


def test_the_state_is_saved_now_and_then_for_kills_that_nobody_announces(
    make_encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    fitted(make_encoder(), tmp_path)
    folders = sorted(path.name for path in tmp_path.glob("checkpoints/*"))
    assert folders == ["step-00000005", "step-00000006"]


def test_a_loss_that_is_no_number_ends_before_the_step(make_encoder, tmp_path):
    encoder = make_encoder()
    with torch.no_grad():
        encoder.network.layer4[0].conv1.weight[0] = 1e38
    with pytest.raises(DivergedError, match=r"The loss is nan .* at step 0 of 6 .*lr 0\.1.*no upd"):
        fitted(encoder, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_layer_learns_at_its_share_of_the_rate(make_encoder, tmp_path):
    # One step of plain SGD: what moves is the rate, times the layer's share, times the gradient.
    recipe = replace(RECIPE, optimizer="sgd", num_steps=1, weight_decay=(0.0,))
    fresh = Classifier(make_encoder(), 3, seed=0).state_dict()
    all_alike = fitted(make_encoder(), tmp_path / "a", recipe=recipe).state_dict()
    by_layer = fitted(
        make_encoder(), tmp_path / "b", recipe=replace(recipe, layer_decay=0.5)
    ).state_dict()
    for name, share in (("head.weight", 1), ("encoder.layer4.0.bn1.weight", 1 / 2)):
        moved = all_alike[name] - fresh[name]
        torch.testing.assert_close(
            by_layer[name] - fresh[name], share * moved, rtol=1e-3, atol=1e-6
        )


def logits_on_rank(encoder, images):
    return predict(Classifier(encoder, 3, seed=0).train(), images, DIGITS_INPUT)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_image_is_judged_once_in_its_place(on_ranks, make_encoder, world_size):
    # 7 images are 1 or 2 for each of 4 ranks; 2 images leave some of 4 ranks without any.
    for num_images in (7, 2):
        images = IMAGES[:num_images]
        model = Classifier(make_encoder(), 3, seed=0).eval()
        with torch.no_grad():
            expected = model(torch.stack([to_input(DIGITS_INPUT)(image) for image in images]))
        for logits in on_ranks(world_size, logits_on_rank, make_encoder(), images):
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)


def test_logits_that_are_no_numbers_are_refused(make_encoder):
    model = Classifier(make_encoder(), 3, seed=0)
    with torch.no_grad():
        model.head.bias[1] = float("inf")
    with pytest.raises(DivergedError, match=r"logits are not finite.*--set \"lr="):
        predict(model, IMAGES[:2], DIGITS_INPUT)


def test_half_precision_scales_its_gradients(make_encoder, tmp_path):
    # The first scale, 65536, may overflow: that step is skipped and the scale halved.
    model = fitted(make_encoder(), tmp_path, recipe=replace(RECIPE, precision="fp16"))
    scaler = torch.load(last_checkpoint(tmp_path), weights_only=True)["scaler"]
    assert scaler["scale"] > 0
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
