"""The search for nearest neighbours: exact, and the same however it is cut up."""

import math

import numpy as np
import pytest
import torch

from moco_eval import neighbours
from moco_eval.neighbours import search, search_on_all_ranks


def random_features(number, dim, seed):
    return torch.randn(number, dim, generator=torch.Generator().manual_seed(seed))


def equal(one, other):
    same = torch.equal(one.similarity, other.similarity) and torch.equal(one.index, other.index)
    return same and one.index.dtype == other.index.dtype


def test_the_nearest_by_hand():
    # Unit vectors at 0, 60, 90 and 180 degrees, of any length; the query lies at 10 degrees:
    # 10, 50, 80 and 170 away.
    angles = torch.tensor([180.0, 60.0, 0.0, 90.0]) * math.pi / 180
    bank = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1e-3], [1.0], [9.0], [2]])
    query = torch.tensor([[math.cos(math.pi / 18), math.sin(math.pi / 18)]])
    found = search(bank, query, 4)
    assert found.index.tolist() == [[2, 1, 3, 0]]
    assert found.similarity[0].tolist() == pytest.approx(
        [math.cos(math.radians(away)) for away in (10, 50, 80, 170)], abs=1e-7
    )


def test_similarities_are_closer_than_float32_tells_apart():
    bank = random_features(500, 2048, 0)
    queries = bank[:20] + 0.1 * random_features(20, 2048, 1)
    exact = [torch.nn.functional.normalize(part.double(), dim=1) for part in (bank, queries)]
    oracle = (exact[1] @ exact[0].T).sort(dim=1, descending=True)
    found = search(bank, queries, 500)
    # 2^-24 is float32's step below 1.
    assert (found.similarity - oracle.values).abs().max() < 2**-24


@pytest.mark.parametrize("num_queries", [1, 7, 64])
@pytest.mark.parametrize("num_images", [1, 5, 13, 128, 1000])
def test_how_the_work_is_cut_up_changes_no_bit(num_queries, num_images):
    # 300 images of which each stands three times in the bank, so that there are equals everywhere,
    # also at the cut after k = 20.
    bank, queries = random_features(100, 24, 0).repeat(3, 1), random_features(50, 24, 1)
    whole = search(bank, queries, 20)
    parts = search(bank, queries, 20, num_queries=num_queries, num_images=num_images)
    assert equal(whole, parts)


def test_of_equals_the_earlier_counts():
    # Five images that are all the same, and a nearer one in their midst.
    same, nearer = [0.6, 0.8], [1.0, 0.0]
    bank = torch.tensor([same, same, same, nearer, same, same])
    for num_images in (1, 2, 4, 6):
        found = search(bank, torch.tensor([[1.0, 0.0]]), 4, num_images=num_images)
        assert found.index.tolist() == [[3, 0, 1, 2]], num_images


def test_a_bank_in_a_file_is_read_in_parts(tmp_path):
    bank, queries = random_features(70, 8, 0), random_features(9, 8, 1)
    np.save(tmp_path / "bank.npy", bank.numpy())
    in_file = np.load(tmp_path / "bank.npy", mmap_mode="c")
    read = []

    class Watched:
        """A bank that notes how much of it is read at once."""

        def __len__(self):
            return len(in_file)

        def __getitem__(self, rows):
            read.append(rows)
            return torch.from_numpy(np.array(in_file[rows]))

    found = search(Watched(), queries, 5, num_queries=2, num_images=32)
    assert equal(found, search(bank, queries, 5))
    # Once each, though there are five parts of queries.
    assert read == [slice(0, 32), slice(32, 64), slice(64, 96)]


def test_no_query_finds_nothing():
    found = search(random_features(5, 4, 0), torch.empty(0, 4), 3)
    assert found.index.shape == found.similarity.shape == (0, 3)


def _on_a_rank(bank, queries):
    found = search_on_all_ranks(bank, queries, 5)
    return found.similarity.numpy(), found.index.numpy()


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_share_the_queries_and_all_know_all(on_ranks, num_ranks):
    # 7 queries are no multiple of the ranks.
    bank, queries = random_features(50, 8, 0), random_features(7, 8, 1)
    alone = search(bank, queries, 5)
    for similarity, index in on_ranks(num_ranks, _on_a_rank, bank, queries):
        assert np.array_equal(similarity, alone.similarity.numpy())
        assert np.array_equal(index, alone.index.numpy())


def test_a_rank_that_answers_too_little_is_noticed(monkeypatch):
    monkeypatch.setattr(neighbours.distributed, "gather_uneven", lambda part: [part[:-1]])
    with pytest.raises(AssertionError, match="the ranks have 6 rows of 7"):
        search_on_all_ranks(random_features(9, 4, 0), random_features(7, 4, 1), 2)
