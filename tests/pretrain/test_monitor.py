import resource
import threading

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from moco_eval import knn
from moco_eval.data.catalog import ImageData, Split, open_images
from moco_eval.data.images import DIGITS_INPUT
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import build_network
from moco_eval.errors import DataError, OutputError
from moco_eval.training.metrics import MetricsFile, TensorBoardFile, read_metrics
from pretrain.monitor import online_knn, tag


def test_rows_after_the_first_step_of_a_resumed_run_and_a_torn_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2, "loss": -9}\n{"step": 3, "lo')
    MetricsFile(path, first_step=2).append({"step": 2, "loss": 0.5})
    assert read_metrics(path) == [{"step": 0}, {"step": 1}, {"step": 2, "loss": 0.5}]


def scalars_of(folder):
    """All scalars as TensorBoard would show them: (step, value) by tag."""
    found = EventAccumulator(str(folder))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {each: [(event.step, event.value) for event in found.Scalars(each)] for each in tags}


def test_tensorboard_reads_back_every_number_under_its_heading(tmp_path):
    before = threading.active_count()
    board = TensorBoardFile(tmp_path, first_step=0, tag=tag)
    board.append({"step": 0, "epoch": 9, "loss": 2.5, "lr": 0.5, "contrast_top1": 25.0})
    board.append({"step": 1, "epoch": 9, "loss": 1.5, "knn_top1": 50.0, "effective_rank": 8.0})
    board.close()
    assert scalars_of(tmp_path) == {
        "train/loss": [(0, 2.5), (1, 1.5)],
        "train/lr": [(0, 0.5)],
        "train/contrast_top1": [(0, 25.0)],
        "knn/top1": [(1, 50.0)],
        "embeddings/effective_rank": [(1, 8.0)],
    }
    assert threading.active_count() == before


def test_a_resumed_run_replaces_the_steps_that_were_lost(tmp_path):
    board = TensorBoardFile(tmp_path, first_step=0)
    for step, loss in enumerate((4.0, 3.0, -9.0, -9.0)):
        board.append({"step": step, "loss": loss})
    board.close()
    # Files are read in the order of the second in their names, which both runs may share here.
    (events,) = tmp_path.iterdir()
    events.rename(tmp_path / "events.out.tfevents.0000000001.earlier")
    board = TensorBoardFile(tmp_path, first_step=2)
    board.append({"step": 2, "loss": 2.0})
    board.close()
    assert scalars_of(tmp_path) == {"train/loss": [(0, 4.0), (1, 3.0), (2, 2.0)]}


def test_an_unwritable_tensorboard_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        TensorBoardFile(tmp_path / "file" / "board", first_step=0)


def test_a_disk_that_is_full_is_an_output_error_too(tmp_path, monkeypatch):
    board = TensorBoardFile(tmp_path, first_step=0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # the writing thread's last words

    def write():
        board.append({"step": 0, "loss": 1.0})
        board.close()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def digits():
    """101 training and 31 test digits: unequal shares for two ranks and for three."""
    data = open_images("digits")
    train = Split(data.train.images[:101], data.train.labels[:101], "first-101")
    test = Split(data.test.images[:31], data.test.labels[:31], "first-31")
    return ImageData("few-digits", data.classes, train, test)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("resnet10_small", num_classes=8)


class Waiting(Exception):
    """A rank cannot go on before the others have sent their part."""


def on_ranks(num_ranks, call):
    """Call ``call(rank, gather)`` for each rank in turn, again until no gather lacks a part."""
    sent = [[] for _ in range(num_ranks)]
    answers = {}
    while len(answers) < num_ranks:
        for rank in range(num_ranks):
            count = 0

            def gather(tensor, rank=rank):
                nonlocal count
                count += 1
                sent[rank][count - 1 :] = [tensor]
                if any(len(parts) < count for parts in sent):
                    raise Waiting
                return [parts[count - 1] for parts in sent]

            try:
                answers[rank] = call(rank, gather)
            except Waiting:
                continue
    return [answers[rank] for rank in range(num_ranks)], sent


def test_alone_it_is_the_protocols_number(digits, network):
    manifest = Manifest(source="", format="", tower="", arch="", input=DIGITS_INPUT, num_loaded=0)
    backbone = build_network("resnet10_small")
    backbone.load_state_dict(network.state_dict(), strict=False)
    recipe = knn.RECIPES["knn-20"]
    outcome = knn.evaluate(Encoder(backbone, manifest), recipe, digits, seed=0, work_dir=None)
    assert online_knn(network, DIGITS_INPUT, digits) == outcome.metrics["top1"]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_the_images_and_all_get_the_number_of_one(digits, network, num_ranks):
    alone = online_knn(network, DIGITS_INPUT, digits)
    assert 20 < alone < 100  # neither guessing nor perfect: a wrong order of images would show

    def call(rank, gather):
        return online_knn(
            network, DIGITS_INPUT, digits, rank=rank, world_size=num_ranks, gather=gather
        )

    answers, sent = on_ranks(num_ranks, call)
    assert answers == [alone] * num_ranks
    # Every image once, none padded: 101 and 31 over all ranks.
    assert sum(len(train) for train, _ in sent) == 101
    assert sum(len(test) for _, test in sent) == 31


def chosen(split, indices):
    images, labels = ([part[i] for i in indices] for part in (split.images, split.labels))
    return Split(images, labels, f"{split.fingerprint} {indices}")


def test_a_limit_takes_images_evenly_from_the_whole_split(digits, network):
    # 25 of 101 and of 31 images; the first 25 would be another set with another answer.
    train = chosen(digits.train, [101 * i // 25 for i in range(25)])
    test = chosen(digits.test, [31 * i // 25 for i in range(25)])
    by_hand = online_knn(network, DIGITS_INPUT, ImageData("", digits.classes, train, test))
    assert online_knn(network, DIGITS_INPUT, digits, limit=25) == by_hand
    first = [chosen(split, range(25)) for split in (digits.train, digits.test)]
    assert online_knn(network, DIGITS_INPUT, ImageData("", digits.classes, *first)) != by_hand


def test_a_limit_above_the_number_of_images_takes_them_all(digits, network):
    everything = online_knn(network, DIGITS_INPUT, digits)
    assert online_knn(network, DIGITS_INPUT, digits, limit=500) == everything


def test_a_bank_smaller_than_k_votes_whole(digits, network):
    # Four neighbours, all that there are, instead of an error in the middle of a run.
    assert 0 <= online_knn(network, DIGITS_INPUT, digits, limit=4) <= 100


@pytest.mark.parametrize("training", [True, False])
def test_the_network_goes_on_as_if_it_had_not_been_judged(digits, training):
    torch.manual_seed(0)
    network = build_network("resnet10_small", num_classes=8).train(training)
    network.layer1.eval()  # a part of it may be of another mode than the whole
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    online_knn(network, DIGITS_INPUT, digits, limit=30)
    assert [module.training for module in network.modules()] == modes
    assert isinstance(network.fc, nn.Linear)
    assert all(parameter.requires_grad for parameter in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_more_ranks_than_images_are_refused(digits, network):
    with pytest.raises(DataError, match="4 images, fewer than the 5 ranks"):
        online_knn(network, DIGITS_INPUT, digits, rank=4, world_size=5, gather=list, limit=4)
