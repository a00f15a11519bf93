import math
from typing import Any

import numpy as np
import pytest
import torch
from test_training import model_of, with_

from lunaops.optimisation import is_stalled, learning_rate, make_optimizer, num_plateaus, set_learning_rate


def rates(num_steps: int, *, val_scores: tuple[float, ...] = (), **changes: Any) -> list[float]:
    params = with_(**{"learning_rate": 1.0, "batch_size": 1, "epochs": 3, **changes})
    return [learning_rate(params, step=step, steps_per_epoch=4, val_scores=val_scores) for step in range(num_steps)]


def test_the_learning_rate_rises_over_the_warm_up_and_falls_along_a_cosine() -> None:
    got = rates(12, schedule="cosine", warmup_samples=3)
    assert got[:4] == [0.25, 0.5, 0.75, 1.0]
    assert got == sorted(got[:4]) + sorted(got[4:], reverse=True)
    assert got[-1] == pytest.approx(0.5 * (1 + np.cos(np.pi * 8 / 9)))


def test_a_constant_learning_rate_is_constant_after_the_warm_up() -> None:
    assert rates(4, schedule="constant", warmup_samples=1) == [0.5, 1, 1, 1]


def test_on_a_plateau_the_learning_rate_falls_and_falls_again() -> None:
    def rate(*val_scores: float) -> float:
        return rates(1, schedule="plateau", plateau_patience=2, plateau_factor=0.1, val_scores=val_scores)[0]

    assert rate() == rate(0.5, 0.4) == rate(0.5, 0.4, 0.6) == 1.0
    assert rate(0.5, 0.4, 0.5) == rate(0.5, 0.4, 0.5, 0.5) == pytest.approx(0.1)
    assert rate(0.5, 0.4, 0.5, 0.5, 0.5) == pytest.approx(0.01)


def test_an_undefined_score_is_no_better_one() -> None:
    assert num_plateaus([math.nan, math.nan], 2) == 1
    assert num_plateaus([math.nan, 0.1, math.nan, 0.2], 2) == 0


def test_training_stalls_after_patience_epochs_without_a_better_score_and_never_without_patience() -> None:
    assert not is_stalled([0.5, 0.4], 2)
    assert is_stalled([0.5, 0.4, 0.5], 2)
    assert not is_stalled([0.5] * 100, 0)


def test_what_is_frozen_is_not_given_to_the_optimiser() -> None:
    model = model_of()
    model.block1.requires_grad_(False)
    optimizer = make_optimizer(model, with_(optimizer="adamw"))
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters())) - 4
    set_learning_rate(optimizer, 0.25)
    assert group["lr"] == 0.25


def test_sgd_is_what_the_book_uses() -> None:
    optimizer = make_optimizer(model_of(), with_(optimizer="sgd", momentum=0.99, learning_rate=0.001))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.99


def weights_by_steps(*gradients: float, **changes: Any) -> list[float]:
    """A weight that is 1, after one step of rate 0.1 for each of the gradients."""
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.load_state_dict({"weight": torch.ones(1, 1)})
    optimizer = make_optimizer(layer, with_(learning_rate=0.1, **changes))
    weights = []
    for gradient in gradients:
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        weights.append(layer.weight.item())
    return weights


def test_sgd_adds_the_decay_to_the_gradient_and_the_momentum_to_both() -> None:
    got = weights_by_steps(1.0, 3.0, optimizer="sgd", momentum=0.5, weight_decay=0.2)
    first = 1 - 0.1 * 1.2
    assert got == pytest.approx([first, first - 0.1 * (0.5 * 1.2 + 3 + 0.2 * first)])


def test_adamw_decays_the_weight_itself_and_its_first_beta_is_the_momentum() -> None:
    got = weights_by_steps(1.0, 3.0, optimizer="adamw", momentum=0.5, weight_decay=0.2)
    first = 1 * (1 - 0.1 * 0.2) - 0.1
    mean = (0.25 * 1 + 0.5 * 3) / (1 - 0.5**2)
    size = math.sqrt((0.000999 * 1 + 0.001 * 9) / (1 - 0.999**2))
    assert got == pytest.approx([first, first * (1 - 0.1 * 0.2) - 0.1 * mean / size])
