"""Features on disk: found again by content, and never trusted when they are damaged."""

import multiprocessing
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from moco_eval import extraction, feature_cache, features
from moco_eval.data.catalog import Split, open_images
from moco_eval.data.images import DIGITS_INPUT
from moco_eval.resources import Resources

GIVEN = {
    **{"tensors": "ab", "arch": "resnet50", "spec": DIGITS_INPUT},
    **{"images": "cd", "feature": "pooled fp32"},
}
KEY = feature_cache.key_of(**GIVEN)


@pytest.fixture
def stored():
    """Three features of two dimensions."""
    return torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 1e9]])


@pytest.fixture
def digits():
    data = open_images("digits")
    train = Split(data.train.images[:20], data.train.labels[:20], "20")
    return replace(data, train=train, test=Split(data.test.images[:8], data.test.labels[:8], "8"))


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Batches that a network computed; what memory holds of earlier tests is gone."""
    made = []
    call = extraction.Extractor.__call__
    monkeypatch.setattr(features, "_computed", {})
    monkeypatch.setattr(
        extraction.Extractor, "__call__", lambda *given: made.append(len(given[1])) or call(*given)
    )
    return made


def test_what_was_written_is_read_again_mapped_from_the_file(tmp_path, stored, capsys):
    assert feature_cache.read(tmp_path, KEY) is None
    feature_cache.write(tmp_path, KEY, stored)
    found = feature_cache.read(tmp_path, KEY)
    assert torch.equal(found, stored)
    # Any reader of safetensors takes it.
    file = feature_cache.path_of(tmp_path, KEY)
    assert torch.equal(load_file(file)["features"], stored)
    # What a probe does to them in memory does not reach the file.
    found.zero_()
    assert torch.equal(feature_cache.read(tmp_path, KEY), stored)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "other",
    [
        {"tensors": "xx"},
        {"arch": "resnet18"},
        {"spec": replace(DIGITS_INPUT, channel_order="BGR")},
        {"images": "xx"},
        {"feature": "pooled bf16"},
    ],
)
def test_other_content_has_another_file(tmp_path, stored, other):
    feature_cache.write(tmp_path, KEY, stored)
    assert feature_cache.key_of(**GIVEN) == KEY
    assert feature_cache.read(tmp_path, feature_cache.key_of(**(GIVEN | other))) is None


@pytest.mark.faults
def test_each_byte_that_flips_is_noticed(tmp_path, stored, capsys):
    feature_cache.write(tmp_path, KEY, stored)
    file = feature_cache.path_of(tmp_path, KEY)
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        assert feature_cache.read(tmp_path, KEY) is None, place
        told = capsys.readouterr().err
        assert told.startswith(f"{file} cannot be used: it")
        assert told.count("\n") == 1


@pytest.mark.faults
def test_each_truncation_is_noticed(tmp_path, stored, capsys):
    feature_cache.write(tmp_path, KEY, stored)
    file = feature_cache.path_of(tmp_path, KEY)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert feature_cache.read(tmp_path, KEY) is None, length
    # 3 x 2 floats of 4 bytes, all but the last of them.
    assert f"it has {len(whole) - 1} bytes of {len(whole)}." in capsys.readouterr().err


def test_a_file_in_the_place_of_another_is_stale(tmp_path, stored, capsys):
    feature_cache.write(tmp_path, KEY, stored)
    other = KEY.replace("resnet50", "resnet18")
    shutil.copy(feature_cache.path_of(tmp_path, KEY), feature_cache.path_of(tmp_path, other))
    assert feature_cache.read(tmp_path, other) is None
    assert "its header is not that of these features" in capsys.readouterr().err


def test_a_damaged_entry_is_computed_anew_and_replaced(
    tmp_path, make_encoder, digits, calls, capsys
):
    encoder, resources = make_encoder(), Resources(cache=tmp_path)
    fresh = features.of_data(encoder, digits, resources=resources)
    assert calls == [20, 8]
    features._computed.clear()
    again = features.of_data(encoder, digits, resources=resources)
    assert calls == [20, 8]
    assert torch.equal(again.train, fresh.train)
    features._computed.clear()
    for file in tmp_path.glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    capsys.readouterr()
    rebuilt = features.of_data(encoder, digits, resources=resources)
    assert calls == [20, 8, 20, 8]
    assert torch.equal(rebuilt.train, fresh.train)
    told = capsys.readouterr().err
    assert told.count("its bytes are not those that were written. Its features are computed") == 2
    features._computed.clear()
    features.of_data(encoder, digits, resources=resources)
    assert calls == [20, 8, 20, 8]


def test_without_a_cache_nothing_is_written(tmp_path, make_encoder, digits, monkeypatch):
    monkeypatch.setenv("MOCO_EVAL_CACHE", str(tmp_path))
    assert feature_cache.default_folder() == tmp_path / "features"
    features.of_data(make_encoder(), digits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocked", ["folder", "file"])
def test_a_folder_that_cannot_be_written_does_not_end_the_run(
    tmp_path, make_encoder, digits, capsys, blocked
):
    # A file where the folder, or one above it, should be.
    (tmp_path / "taken").write_text("")
    folder = tmp_path / "taken" if blocked == "folder" else tmp_path / "taken" / "below"
    found = features.of_data(make_encoder(), digits, resources=Resources(cache=folder))
    assert found.train.shape == (20, 128)
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.faults
def test_a_full_disk_does_not_end_the_run(make_encoder, digits, capsys, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    found = features.of_data(make_encoder(), digits, resources=Resources(cache=tmp_path))
    assert found.train.shape == (20, 128)
    assert "cannot be written: No space left on device." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def write_often(folder, number):
    for _ in range(50):
        feature_cache.write(folder, KEY, torch.full((1000, 8), float(number)))


def test_two_that_write_the_same_do_not_harm_each_other(tmp_path, capsys):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(tmp_path, number)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    found = 0
    while any(writer.is_alive() for writer in writers):
        # One's or the other's, and whole.
        features = feature_cache.read(tmp_path, KEY)
        if features is not None:
            assert features.unique().tolist() in ([1.0], [2.0])
            found += 1
    assert found > 0
    assert len(list(tmp_path.iterdir())) == 1
    assert capsys.readouterr().err == ""


def cached_on_this_rank(encoder, data, folder, elsewhere):
    from moco_eval import distributed

    features._computed.clear()
    made = []
    call = extraction.Extractor.__call__
    extraction.Extractor.__call__ = lambda *given: made.append(1) or call(*given)
    own = folder if distributed.rank() == 0 else elsewhere
    found = features.of_data(encoder, data, resources=Resources(cache=own))
    extraction.Extractor.__call__ = call
    return found.train.numpy(), len(made)


def test_ranks_that_do_not_all_have_the_cache_compute_together(
    tmp_path, make_encoder, digits, on_ranks
):
    encoder = make_encoder()
    plain = features.of_data(encoder, digits, resources=Resources(cache=tmp_path))
    # Rank 0 finds both splits, rank 1 looks in another folder: of one batch each, rank 0's share
    # is all.
    elsewhere = tmp_path / "elsewhere"
    told = on_ranks(2, cached_on_this_rank, encoder, digits, tmp_path, elsewhere)
    assert [number for _, number in told] == [2, 0]
    for train, _ in told:
        assert (train == plain.train.numpy()).all()
    # Rank 0 alone writes.
    assert not elsewhere.exists()
    # Where all find the entry, nobody computes.
    told = on_ranks(2, cached_on_this_rank, encoder, digits, tmp_path, tmp_path)
    assert [number for _, number in told] == [0, 0]
