"""How weights are changed: the optimiser, and the learning rate over the run."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from lunaops.params import TrainParams


def make_optimizer(model: nn.Module, params: TrainParams) -> torch.optim.Optimizer:
    """SGD or AdamW over the weights of `model` that are to be trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay, momentum = params.learning_rate, params.weight_decay, params.momentum
    fused = True if trained[0].is_cuda else None  # all weights in one kernel: a small step on a GPU waits for the host
    if params.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=rate, weight_decay=decay, momentum=momentum, fused=fused)
    return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, betas=(momentum, 0.999), fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(params: TrainParams, *, step: int, steps_per_epoch: int, val_scores: Sequence[float]) -> float:
    """The learning rate of `step`, counted from 0 over the run; `val_scores` are those of the epochs before it.

    It rises linearly over the warm-up; then it stays (constant), falls to 0 along half a cosine (cosine), or is
    multiplied by `plateau_factor` after every `plateau_patience` epochs without a better score (plateau).
    """
    warmup_steps = params.warmup_samples // params.batch_size
    num_steps = params.epochs * steps_per_epoch
    factor = 1.0
    if params.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * max(step - warmup_steps, 0) / max(num_steps - warmup_steps, 1)))
    if params.schedule == "plateau":
        factor = params.plateau_factor ** num_plateaus(val_scores, params.plateau_patience)
    return params.learning_rate * factor * min((step + 1) / (warmup_steps + 1), 1.0)


def num_plateaus(scores: Sequence[float], patience: int) -> int:
    """How often `patience` epochs in a row brought no score above all before them; each is counted for one time."""
    best, waited, plateaus = -math.inf, 0, 0
    for score in scores:
        waited = 0 if score > best else waited + 1
        best = max(best, score) if not math.isnan(score) else best
        if waited == patience:
            plateaus, waited = plateaus + 1, 0
    return plateaus


def is_stalled(scores: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` epochs brought no score above all before them; never with patience 0."""
    return patience > 0 and num_plateaus(scores, patience) > 0
