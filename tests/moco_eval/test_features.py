"""Features: the fast copy computes what the encoder does, once, on any number of ranks."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from moco_eval import extraction, features, knn, linear, logistic, lowshot
from moco_eval.data.catalog import Split, open_images
from moco_eval.data.decoding import DamagedImageError
from moco_eval.data.images import DIGITS_INPUT, InputSpec, to_input
from moco_eval.data.splits import ABSENT, DIFFICULT, PRESENT, MultiLabelData, MultiLabelSplit
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network, with_last_layer
from moco_eval.encoders.networks.pooling import kinds_of
from moco_eval.errors import DataError, DivergedError, UsageError
from moco_eval.resources import Resources

TINY_VIT = "timm:vit_tiny_patch16_224:depth=2,embed_dim=64,img_size=32,num_heads=1,patch_size=8"


@pytest.fixture(autouse=True)
def nothing_computed(monkeypatch):
    monkeypatch.setattr(features, "_computed", {})


@pytest.fixture(scope="module")
def digits():
    return open_images("digits")


def first(data, num_train, num_test):
    """The first images of both splits."""
    train, test = (
        Split(split.images[:number], split.labels[:number], f"{split.fingerprint}:{number}")
        for split, number in ((data.train, num_train), (data.test, num_test))
    )
    return replace(data, train=train, test=test)


def encoder_of(network, size=8):
    spec = InputSpec(size=size, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
    return Encoder(
        network,
        Manifest(source="mine", format="test", tower="", arch="mine", input=spec, num_loaded=0),
    )


# The fast copy.


@pytest.mark.parametrize("arch", ["resnet10_small", TINY_VIT, "timm:regnety_002"])
def test_the_fast_copy_gives_every_feature_of_the_encoder(make_encoder, arch):
    encoder = make_encoder(arch)
    images, kinds = torch.randn(5, 3, 32, 32), kinds_of(encoder.network)
    exact, rounded = (
        extraction.Extractor(encoder, name)(images, kinds) for name in ("fp32", "bf16")
    )
    for kind in kinds:
        expected = encoder.features(images, kind)
        assert exact[kind].dtype == rounded[kind].dtype == torch.float32
        assert (exact[kind] - expected).norm() < 1e-5 * expected.norm()
        assert 1e-5 * expected.norm() < (rounded[kind] - expected).norm()
        assert (rounded[kind] - expected).norm() < 1e-2 * expected.norm()


def test_the_fast_copy_gives_the_same_whatever_the_batch_size(make_encoder):
    extractor, images = extraction.Extractor(make_encoder()), torch.randn(12, 3, 32, 32)
    whole = extractor(images)["pooled"]
    for size in (1, 5):
        parts = torch.cat([extractor(part)["pooled"] for part in images.split(size)])
        assert (parts - whole).norm() < 1e-5 * whole.norm()


def compiled(encoder, images):
    """Features of several batches, and how many programs were made for them."""
    # Traced and guarded as ever, but run by torch itself: generating code takes a minute.
    graphs, compile = [], torch.compile

    def run(graph, example):
        graphs.append(graph)
        return graph.forward

    torch.compile = lambda network, **_: compile(network, backend=run, dynamic=False)
    extractor = extraction.Extractor(encoder, compile=True)
    return [extractor(batch)["pooled"].numpy() for batch in images], len(graphs)


def test_a_compiled_copy_gives_the_same_and_bears_a_short_last_batch(make_encoder, on_ranks):
    encoder, images = make_encoder(), torch.randn(8, 3, 32, 32)
    batches = (images, images[:3], images[:1])
    # In a process of its own: whoever compiled can no longer fork one that trains.
    [(found, num_graphs)] = on_ranks(1, compiled, encoder, batches)
    for batch, features_of_batch in zip(batches, found, strict=True):
        expected = encoder.features(batch).numpy()
        assert features_of_batch.shape == expected.shape
        assert abs(features_of_batch - expected).max() < 1e-5 * abs(expected).max()
    # Once, for eight images.
    assert num_graphs == 1


@pytest.fixture(scope="module")
def trained(digits):
    """A small encoder after three epochs on 600 digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, transform = build_network("resnet10_small", num_classes=10), to_input(DIGITS_INPUT)
        images = torch.stack([transform(image) for image in digits.train.images[:600]])
        labels = torch.tensor(digits.train.labels[:600])
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        for batch in torch.cat([torch.randperm(600) for _ in range(3)]).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    network = with_last_layer(network, nn.Identity())
    return Encoder(network, replace(encoder_of(network).manifest, input=DIGITS_INPUT))


def test_bf16_features_probe_as_fp32_ones_do(digits, trained):
    top1 = {}
    for precision in ("fp32", "bf16"):
        found = features.of_data(trained, digits, precision=precision)
        # Each half judges the probe of the other, so that 0.2 points are 3 of 1,797 images.
        halves = [(found.train, found.train_labels), (found.test, found.test_labels)]
        hits = 0.0
        for fitted, judged in (halves, halves[::-1]):
            probe = logistic.fit(*fitted, c=1.0)
            hits += logistic.accuracy(probe, *judged) * len(judged[1])
        top1[precision] = hits / 1797
    assert top1["fp32"] > 95
    assert abs(top1["fp32"] - top1["bf16"]) <= 0.2


# Of a data set.


def test_a_features_row_is_its_images(make_encoder, digits):
    encoder, few = make_encoder(), first(digits, 70, 9)
    found = features.of_data(encoder, few)
    transform = to_input(encoder.input)
    for split, rows in ((few.train, found.train), (few.test, found.test)):
        expected = encoder.features(torch.stack([transform(image) for image in split.images]))
        assert rows.shape == expected.shape
        assert (rows - expected).norm() < 1e-5 * expected.norm()
    assert found.test_labels.tolist() == list(few.test.labels)


def test_labels_of_several_classes_become_a_matrix(digits):
    labels = ((PRESENT, ABSENT), (DIFFICULT, PRESENT), (ABSENT, ABSENT))
    split = MultiLabelSplit(digits.test.images[:3], labels, "three")
    data = MultiLabelData("few", ("one", "other"), split, split)
    found = features.of_data(encoder_of(build_network("pixels")), data)
    assert found.test_labels.tolist() == [[1, 0], [-1, 1], [0, 0]]
    assert found.train.shape == (3, 64)


def test_workers_change_nothing(make_encoder, digits):
    encoder, few = make_encoder(), first(digits, 70, 5)
    alone = features.of_data(encoder, few)
    features._computed.clear()
    helped = features.of_data(encoder, few, resources=Resources(num_workers=2))
    assert torch.equal(alone.train, helped.train)


class Damaged:
    """Images of which the third cannot be decoded."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 2:
            raise DamagedImageError("folder/third.jpg is damaged: truncated.", kind="truncated")
        return Image.new("RGB", (8, 8))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_ends_the_run_with_its_name(num_workers):
    split = Split(Damaged(), [0] * 5, "damaged")
    encoder, resources = encoder_of(build_network("pixels")), Resources(num_workers=num_workers)
    with pytest.raises(DataError, match=r"^folder/third\.jpg is damaged: truncated\.$"):
        features.of_split(encoder, split, resources=resources)
    # torch would wait ten seconds for the worker.
    for worker in multiprocessing.active_children():
        worker.kill()


def test_features_that_are_not_finite_are_refused_with_the_first_image(digits):
    class Dividing(nn.Module):
        def forward(self, images):
            return 1 / (images.sum((1, 2, 3)) - darkest)[:, None]

    split = first(digits, 1, 80).test
    transform = to_input(encoder_of(Dividing()).input)
    sums = [transform(image).sum((0, 1, 2)) for image in split.images]
    # The sum of one image: dividing by the difference is not finite there, and wherever it recurs.
    darkest = sums[70]
    assert sums.index(darkest) == 70
    with pytest.raises(DivergedError, match=r"mine gives features .* the first is image 70"):
        features.of_split(encoder_of(Dividing()), split)


# On several ranks.


def on_this_rank(encoder, data, feature="pooled"):
    features._computed.clear()
    counted = []
    extractor_call = extraction.Extractor.__call__

    def counting(self, images, *rest):
        counted.append(len(images))
        return extractor_call(self, images, *rest)

    extraction.Extractor.__call__ = counting
    try:
        found = features.of_data(encoder, data, feature=feature)
    finally:
        extraction.Extractor.__call__ = extractor_call
    return found.train.numpy(), found.test.numpy(), counted


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_rank_gets_all_features_and_each_image_is_counted_once(
    make_encoder, digits, on_ranks, num_ranks
):
    encoder, few = make_encoder(), first(digits, 70, 360)
    train, test, _ = on_this_rank(encoder, few)
    told = on_ranks(num_ranks, on_this_rank, encoder, few)
    for other_train, other_test, _ in told:
        # Whole batches are what each takes: bit for bit.
        assert (other_train == train).all()
        assert (other_test == test).all()
    assert test.shape == (360, 128)
    # 70 = 64 + 6 images in 2 batches, 360 = 5 * 64 + 40 in 6: rank r of 4 has batches r, r + 4.
    shares = {1: [430], 2: [64 + 3 * 64, 6 + 2 * 64 + 40], 4: [192, 6 + 64 + 40, 64, 64]}
    assert [sum(counted) for _, _, counted in told] == shares[num_ranks]


def measured(encoder, data):
    features._computed.clear()
    found = features.of_data(encoder, data)
    votes = knn.classify(found.train, found.train_labels, found.test, ks=[5, 20], temperature=0.07)
    probe = logistic.fit(found.train, found.train_labels, c=0.01)
    return {
        **{k: (votes[k] == found.test_labels).sum().item() for k in votes},
        "probe": logistic.accuracy(probe, found.test, found.test_labels),
        "counted": len(found.test),
    }


def test_metrics_are_equal_on_1_2_and_4_ranks(make_encoder, digits, on_ranks):
    encoder, few = make_encoder(), first(digits, 300, 360)
    [alone] = on_ranks(1, measured, encoder, few)
    assert alone["counted"] == 360
    for num_ranks in (2, 4):
        assert on_ranks(num_ranks, measured, encoder, few) == [alone] * num_ranks


def test_fewer_images_than_ranks(make_encoder, digits, on_ranks):
    encoder, few = make_encoder(), first(digits, 3, 1)
    train, test, _ = on_this_rank(encoder, few)
    for other_train, other_test, _ in on_ranks(2, on_this_rank, encoder, few):
        assert (other_train == train).all()
        assert (other_test == test).all()


def broken_on_one_rank(encoder, split):
    with pytest.raises(DivergedError, match="the first is image 0"):
        features.of_data(encoder, replace(open_images("digits"), train=split, test=split))


def test_all_ranks_tell_of_features_that_are_not_finite(digits, on_ranks):
    class Broken(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) * float("nan")

    split = Split(digits.test.images[:10], digits.test.labels[:10], "broken")
    on_ranks(2, broken_on_one_rank, encoder_of(Broken()), split)


# Frozen means frozen.


class Moving(nn.Module):
    """A network that leaves eval mode whenever it computes."""

    def __init__(self):
        super().__init__()
        self.fine, self.norm = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm.train()(self.fine(images)).flatten(1)


@pytest.mark.parametrize(
    ("module", "recipe"),
    [
        (linear, linear.RECIPES["lbfgs"]),
        (knn, replace(knn.RECIPES["knn-20"], other_k=())),
        (lowshot, lowshot.RECIPES["1-shot"]),
    ],
)
def test_an_encoder_that_moves_while_it_computes_is_named(digits, module, recipe):
    with pytest.raises(AssertionError, match=r"the encoder: norm\.running_mean, norm\.running_var"):
        module.evaluate(encoder_of(Moving()), recipe, first(digits, 64, 8), seed=0, work_dir=Path())


def test_a_probe_that_moves_one_buffer_of_the_encoder_fails_naming_it(make_encoder):
    encoder = make_encoder()
    with (
        pytest.raises(
            AssertionError, match=r"changed the encoder: layer2\.0\.bn1\.running_mean\.$"
        ),
        features.frozen(encoder),
    ):
        encoder.network.layer2[0].bn1.running_mean[3] += 1e-6


def test_extraction_leaves_every_tensor_of_the_encoder(make_encoder, digits):
    encoder = make_encoder()
    before = encoder.tensor_sha256()
    features.of_data(encoder, first(digits, 20, 8), precision="bf16")
    assert encoder.tensor_sha256() == before
    assert all(tensor.is_contiguous() for tensor in encoder.tensors().values())


def test_a_feature_that_the_network_lacks_is_refused(make_encoder, digits):
    with pytest.raises(UsageError, match="has no feature 'cls'"):
        features.of_data(make_encoder(), first(digits, 20, 8), feature="cls")


def test_images_that_are_computed_a_few_at_a_time_keep_their_order(make_encoder, monkeypatch):
    encoder = make_encoder()
    size = encoder.input.size
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    whole = extraction.Extractor(encoder)(images)["pooled"]
    # Two at a time: 2, 2 and 1.
    monkeypatch.setattr(extraction, "PIXELS_AT_ONCE", 2 * size * size)
    found = extraction.Extractor(encoder)(images)["pooled"]
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
