from dataclasses import replace

import pytest

from moco_eval.errors import UsageError
from pretrain.recipes import RECIPES


def test_a_queue_that_no_batch_divides_is_refused_with_the_nearest():
    # 1000 // 64 = 15 batches fit, 15 * 64 = 960.
    with pytest.raises(UsageError, match=r"queue_size = 1000 .* batch_total = 64.*queue_size=960"):
        replace(RECIPES["mocov2-digits"], queue_size=1000)


def test_a_batch_that_the_virtual_ranks_do_not_divide_is_refused():
    with pytest.raises(UsageError, match="cannot be cut into virtual_ranks = 3 equal groups"):
        replace(RECIPES["mocov2-digits"], virtual_ranks=3)


@pytest.mark.parametrize("field", ["epochs", "batch_total", "dim", "queue_size"])
def test_zero_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} must be at least 1, found 0"):
        replace(RECIPES["mocov2"], **{field: 0})


def test_v2_differs_from_v1_in_what_its_paper_names():
    # MoCo v2 (arXiv:2003.04297): MLP head, stronger augmentation, cosine schedule, tau 0.2.
    v1, v2 = RECIPES["mocov1"], RECIPES["mocov2"]
    same = replace(
        v2, mlp=False, views="mocov1", schedule="step", temperature=0.07, lr_drops=(120, 160)
    )
    assert same == v1
