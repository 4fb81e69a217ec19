import math

import pytest
import torch

from pretrain.collapse import STATISTICS, embedding_statistics, verdict


def test_one_point_for_all_images_is_a_collapse():
    # Of any length: what is compared are directions.
    queries = torch.outer(torch.tensor([1.0, 2.0, 30.0]), torch.tensor([0.3, 0.4, 0.1, -0.2]))
    found = embedding_statistics(queries, 5 * queries)
    assert tuple(found) == STATISTICS
    assert found["embedding_sd"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == 0
    assert found["positive_similarity"] == pytest.approx(1)
    assert found["negative_similarity"] == pytest.approx(1)


def test_orthonormal_embeddings_by_hand():
    # The four axes of four dimensions. A dimension holds one 1 and three 0: mean 1/4, variance
    # 1/4 - 1/16 = 3/16, s.d. 0.433, times sqrt(4) is 0.866. Centred, they span three dimensions
    # evenly: rank 3. Keys turned by one place: image i's key is another's axis, so the positives
    # are at 0, and of the 12 other pairs 4 are at 1.
    queries = torch.eye(4)
    found = embedding_statistics(queries, queries.roll(1, dims=0))
    assert found["embedding_sd"] == pytest.approx(math.sqrt(3) / 2)
    assert found["effective_rank"] == pytest.approx(3)
    assert found["positive_similarity"] == pytest.approx(0)
    assert found["negative_similarity"] == pytest.approx(4 / 12)


def test_the_effective_rank_weighs_singular_values_by_hand():
    # Four images at each end of one axis, one at each end of another: centred already. Singular
    # values sqrt(8) and sqrt(2), shares 2/3 and 1/3, entropy ln 3 - 2/3 ln 2: exp is 3 / 2^(2/3).
    x, y = torch.eye(5)[:2]
    queries = torch.stack([*[x, -x] * 4, y, -y])
    found = embedding_statistics(queries, queries)
    assert found["effective_rank"] == pytest.approx(3 / 2 ** (2 / 3))


def test_directions_at_random_fill_the_sphere():
    points = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    found = embedding_statistics(points, points.flip(0))
    assert found["embedding_sd"] == pytest.approx(1, abs=0.02)
    assert found["effective_rank"] == pytest.approx(16, abs=0.1)
    assert found["negative_similarity"] == pytest.approx(0, abs=0.02)


CHANCE = math.log(65537)  # 11.09; a tenth below it is 9.98


def rows(*losses):
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses)]


def test_the_easy_first_steps_are_not_learning():
    # 30 steps below chance, while the queue is random; 100 at chance; then learnt, from step 130.
    # The median of 20 steps, ten of them at 11 and ten at 5, is 8: below 9.98 at step 139.
    run = rows(*[3.0] * 30, *[11.0] * 100, *[5.0] * 50)
    run[60]["loss"] = 1.0  # one lucky batch is not learning either
    assert verdict(run, chance_loss=CHANCE, dim=128) == "loss left chance at step 139"


def test_the_verdict_is_one_sentence_of_the_last_numbers():
    run = rows(*[11.0] * 4100, *[5.0] * 20)
    run[10] |= {"knn_top1": 11.0, "effective_rank": 2.0, "embedding_sd": 0.0}
    run[-1] |= {"knn_top1": 82.14, "effective_rank": 93.7, "embedding_sd": 0.9}
    assert verdict(run, chance_loss=CHANCE, dim=128) == (
        "loss left chance at step 4,109; kNN 82.1; embeddings use 94 of 128 dimensions"
    )


def test_a_loss_at_chance_to_the_end_is_a_failure_with_advice():
    for run in (rows(*[3.0] * 30, *[11.0] * 100), rows(11.0)):
        said = verdict(run, chance_loss=CHANCE, dim=128)
        assert said.startswith("the loss never left chance (11.09): the run has failed; lower lr")


def test_a_loss_that_comes_back_to_chance_is_a_failure():
    run = rows(*[11.0] * 50, *[5.0] * 50, *[11.05] * 50)
    said = verdict(run, chance_loss=CHANCE, dim=128)
    assert said.startswith("the loss left chance (11.09) and came back: the run has failed")


def test_a_loss_that_was_never_near_chance_tells_nothing():
    run = rows(*[3.0] * 50, *[9.0] * 50, *[2.0] * 50)
    said = verdict(run, chance_loss=CHANCE, dim=128)
    assert said.startswith("the loss never came near chance (11.09; at most 9.00)")


@pytest.mark.parametrize(
    ("rank", "sd", "collapsed"), [(6.3, 0.9, True), (6.5, 0.9, False), (90.0, 0.09, True)]
)
def test_few_dimensions_or_a_small_spread_are_a_collapse(rank, sd, collapsed):
    # 5 % of 128 dimensions are 6.4.
    run = rows(*[11.0] * 50, *[5.0] * 50)
    run[-1] |= {"effective_rank": rank, "embedding_sd": sd}
    assert ("have collapsed" in verdict(run, chance_loss=CHANCE, dim=128)) == collapsed
