import json
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from test_training import CPU, PLAIN, STILL, data, model_without_batch_statistics, with_

from lunaops.params import TrainParams
from lunaops.scoring import Scored
from lunaops.training import EpochResult, fit
from lunaops.training_state import TrainingState


def new_state(params: TrainParams) -> TrainingState:
    return TrainingState(model_without_batch_statistics(), params, CPU)


def resumed(state: TrainingState, params: TrainParams) -> TrainingState:
    """A new state with what was kept of `state`, as a file holds it."""
    other = new_state(params)
    tensors = {name: tensor.clone() for name, tensor in state.tensors().items()}
    other.restore(tensors, json.loads(json.dumps(state.facts())))
    return other


def epochs(state: TrainingState, params: TrainParams, num: int | None = None) -> list[EpochResult]:
    """The next `num` epochs, or all that are left."""
    train, val = data("train"), data("val")
    going = fit(state, train, val, spacing_irc=np.ones((len(train), 3)), params=params, augment=PLAIN)
    return list(islice(going, num))


def still(**changes: Any) -> TrainParams:
    return STILL.model_copy(update={"epochs": 4, **changes})


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_all_that_was_kept_is_given_back(optimizer: str) -> None:
    params = with_(optimizer=optimizer)
    state = new_state(params)
    epochs(state, params, 1)
    state.precision, state.step = "bf16", 1
    state.take(Scored(np.array([3]), np.array([1]), np.float32([0.25]), np.float32([1.5])), 2.5)
    again = resumed(state, params)
    assert again.facts() == state.facts() == {
        "epoch": 1, "step": 1, "samples": 16, "val_scores": state.val_scores, "precision": "bf16", "sum_of_norms": 2.5,
    }  # fmt: skip
    assert (len(again.val_scores), again.grad_norm) == (1, 2.5)
    assert again.tensors().keys() == state.tensors().keys()
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in state.tensors().items())


def test_a_resumed_run_knows_how_long_it_has_waited_for_a_better_epoch() -> None:
    params = still(learning_rate=1e-20, schedule="plateau", plateau_patience=2, plateau_factor=0.1)
    state = new_state(params)
    rates = [result.metrics["train/learning_rate"] for result in epochs(state, params, 2)]
    rates += [result.metrics["train/learning_rate"] for result in epochs(resumed(state, params), params)]
    assert rates == pytest.approx([1e-20, 1e-20, 1e-20, 1e-21], abs=0)


def test_a_run_that_stopped_early_stays_stopped() -> None:
    params = still(patience=1)
    state = new_state(params)
    assert len(epochs(state, params)) == 2
    assert epochs(resumed(state, params), params) == []


@pytest.mark.parametrize(("tolerance", "later", "precision"), [(0.5, 1e-9, "bf16"), (1e-9, 0.5, "fp32")])
def test_a_resumed_run_keeps_the_precision_that_was_tried(tolerance: float, later: float, precision: str) -> None:
    first, second = (still(precision="bf16", precision_tolerance=number) for number in (tolerance, later))
    state = new_state(first)
    epochs(state, first, 1)
    again = resumed(state, second)
    (result,) = epochs(again, second, 1)
    (expected,) = epochs(state, first, 1)
    assert state.precision == again.precision == precision
    assert result.train.loss.tolist() == expected.train.loss.tolist()
