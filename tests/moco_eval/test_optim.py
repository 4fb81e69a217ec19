"""Optimizers: LARS by hand, and what each name of a recipe means."""

import pytest
import torch
from torch import nn

from moco_eval.errors import UsageError
from moco_eval.optim import LARS, build_optimizer, parameters_of


def parameter(values):
    return nn.Parameter(torch.tensor(values))


def step(optimizer, *pairs):
    for weight, gradient in pairs:
        weight.grad = torch.tensor(gradient)
    optimizer.step()


def test_lars_scales_and_decays_matrices_and_leaves_vectors_alone():
    matrix, vector = parameter([[3.0, 4.0]]), parameter([2.0])
    lars = LARS([matrix, vector], 10.0, weight_decay=0.5, sgd_momentum=0.5, trust_coefficient=0.1)
    # With decay [6, -8], of norm 10; the weights' is 5: times 0.1 * 5 / 10, so [0.3, -0.4].
    step(lars, (matrix, [[4.5, -10.0]]), (vector, [1.0]))
    assert matrix.tolist() == [pytest.approx([3 - 10 * 0.3, 4 + 10 * 0.4], abs=1e-6)]
    assert vector.tolist() == pytest.approx([2 - 10 * 1])

    # Weights [0, 8], gradient with decay [3, 4] of norm 5: times 0.1 * 8 / 5, so [0.48, 0.64], and
    # half of the last [0.3, -0.4]. The learning rate is this step's for both parts.
    lars.param_groups[0]["lr"] = 1.0
    step(lars, (matrix, [[3.0, 0.0]]), (vector, [4.0]))
    assert matrix.tolist() == [pytest.approx([0 - 0.48 - 0.15, 8 - 0.64 + 0.2])]
    assert vector.tolist() == pytest.approx([-8 - (0.5 * 1 + 4)])
    assert lars.state[vector]["momentum_buffer"].tolist() == pytest.approx([4.5])


def test_lars_takes_a_plain_step_where_there_is_no_proportion_to_keep():
    fresh, still, unused = parameter([[0.0]]), parameter([[2.0]]), parameter([[7.0]])
    step(LARS([fresh, still, unused], 0.5), (fresh, [[3.0]]), (still, [[0.0]]))
    # Weights of norm 0 take the gradient as it is; a gradient of 0 moves nothing, to no nan.
    assert (fresh.item(), still.item(), unused.item()) == (-1.5, 2.0, 7.0)


def test_lars_continues_from_its_state():
    weights = [parameter([[3.0, 4.0]]) for _ in range(2)]
    whole, first, second = (LARS([weight], 0.1) for weight in (*weights, weights[1]))
    step(whole, (weights[0], [[1.0, 2.0]]))
    step(whole, (weights[0], [[3.0, -1.0]]))
    step(first, (weights[1], [[1.0, 2.0]]))
    second.load_state_dict(first.state_dict())
    step(second, (weights[1], [[3.0, -1.0]]))
    assert torch.equal(*weights)


def test_sgd_decays_vectors_too_and_has_momentum():
    vector = parameter([2.0])
    sgd = build_optimizer("sgd", [vector], lr=0.5, weight_decay=0.1, sgd_momentum=0.9)
    step(sgd, (vector, [1.0]))
    # 1 + 0.1 * 2 = 1.2
    assert vector.item() == pytest.approx(2 - 0.5 * 1.2)
    step(sgd, (vector, [1.0]))
    # 0.9 * 1.2 + 1 + 0.1 * 1.4 = 2.22
    assert vector.item() == pytest.approx(1.4 - 0.5 * 2.22)


def test_adamw_decays_vectors_too_and_decays_apart_from_the_gradient():
    vector = parameter([1.0])
    adamw = build_optimizer("adamw", [vector], lr=0.1, weight_decay=0.2)
    step(adamw, (vector, [3.0]))
    # 1 - 0.1 * 0.2 * 1 for the decay; Adam's first step is of length lr whatever the gradient.
    assert vector.item() == pytest.approx(0.98 - 0.1)


def test_lars_is_had_by_name():
    lars = build_optimizer("lars", [parameter([1.0])], lr=0.3, weight_decay=0.2, sgd_momentum=0.8)
    group = lars.param_groups[0]
    assert isinstance(lars, LARS)
    assert (group["lr"], group["weight_decay"], group["sgd_momentum"]) == (0.3, 0.2, 0.8)


def test_an_unknown_optimizer_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"no optimizer 'adam'\. Did you mean 'adamw'\?"):
        build_optimizer("adam", [], lr=0.1, weight_decay=0)


def test_what_is_frozen_is_not_trained():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    model[0].weight.requires_grad_(False)
    trained = parameters_of(model)
    assert len(trained) == 2
    assert trained[0] is model[0].bias
    assert trained[1] is model[1].weight


def test_nesterov_looks_a_step_ahead_and_groups_have_their_own_decay():
    plain, spared = parameter([2.0]), parameter([2.0])
    groups = [{"params": [plain]}, {"params": [spared], "weight_decay": 0.0}]
    sgd = build_optimizer("nesterov", groups, lr=0.5, weight_decay=0.1, sgd_momentum=0.9)
    step(sgd, (plain, [1.0]), (spared, [1.0]))
    # The momentum is the gradient, 1.2 with decay; a step is the gradient and 0.9 of the momentum.
    assert plain.item() == pytest.approx(2 - 0.5 * (1.2 + 0.9 * 1.2))
    assert spared.item() == pytest.approx(2 - 0.5 * 1.9)
