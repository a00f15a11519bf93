"""fit(): trains a model and yields one EpochResult after another. It knows no file and no tracker."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from lunaops.augment import apply_turns, draw_turns
from lunaops.dataset import Batch, CropDataset, EpochSampler, load_batches
from lunaops.device import keep_freed_memory, place_model
from lunaops.errors import InputError
from lunaops.metrics import classification_metrics
from lunaops.params import AugmentParams, TrainParams
from lunaops.progress import progress


@dataclass(frozen=True)
class Scored:
    """What a pass over samples leaves behind, each (n,): rows of the data set's table, labels, scores, losses."""

    row: NDArray[np.int64]
    is_nodule: NDArray[np.int64]
    score: NDArray[np.float32]
    loss: NDArray[np.float32]


@dataclass(frozen=True)
class EpochResult:
    """One epoch: `epoch` counts from 1, `samples` are the training samples seen since the start of the run.

    `samples_per_second` stands apart from `metrics`, which are the same in every run of the same seed.
    """

    epoch: int
    samples: int
    train: Scored
    val: Scored
    metrics: dict[str, float]
    samples_per_second: float


def fit(
    model: nn.Module,
    train: CropDataset,
    val: CropDataset,
    *,
    params: TrainParams,
    augment: AugmentParams,
    device: torch.device,
) -> Iterator[EpochResult]:
    """Train `model` in place on the cross entropy of its logits, and validate it after each epoch.

    The same seed, data and device give the same results, whatever the number of loader workers.
    Raises InputError where a class to be drawn is empty, or where the loss is no longer finite.
    """
    keep_freed_memory()
    place_model(model, device)
    sampler = EpochSampler(
        train.is_nodule,
        samples=params.samples_per_epoch,
        batch_size=params.batch_size,
        balance=params.balance,
        seed=params.seed,
    )
    pin = device.type == "cuda"
    train_batches = load_batches(train, sampler, num_workers=params.num_workers, pin=pin)
    val_batches = load_batches(val, batch_size=params.batch_size, num_workers=params.num_workers, pin=pin)
    optimizer = _optimizer(model, params)
    schedule = _schedule(optimizer, params, num_steps=params.epochs * len(sampler))
    steps = progress(
        _all_epochs(train_batches, sampler, params, augment),
        total=params.epochs * len(sampler),
        label="train",
        unit="batches",
    )
    samples = 0
    for epoch in range(1, params.epochs + 1):
        started = time.perf_counter()
        trained = _train_epoch(model, optimizer, schedule, islice(steps, len(sampler)), device)
        rate = len(trained.row) / (time.perf_counter() - started)
        _check_finite(trained, epoch)
        validated = score_batches(model, progress(val_batches, label="validate", unit="batches"), device)
        samples += len(trained.row)
        metrics = {**_metrics("train", trained, params.threshold), **_metrics("val", validated, params.threshold)}
        metrics |= {"train/learning_rate": float(schedule.get_last_lr()[0])}
        yield EpochResult(epoch, samples, trained, validated, metrics, rate)
    assert next(steps, None) is None  # and the progress says that it is done


def score_batches(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> Scored:
    """Score all samples without changing the model: no gradient, no batch statistics."""
    model.eval()
    with torch.inference_mode():
        return _gathered([_forward(model, batch, device) for batch in batches])


class _Pass(NamedTuple):
    """One batch on the device, each (N,); `loss` may carry a graph."""

    row: Tensor
    is_nodule: Tensor
    score: Tensor
    loss: Tensor


def rate_factor(step: int, *, num_steps: int, warmup_steps: int, schedule: str) -> float:
    """What the learning rate is multiplied by at `step` of `num_steps`, counted from 0.

    It rises linearly over the warm-up, then stays 1 (constant) or falls to 0 along half a cosine (cosine).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(num_steps - warmup_steps, 1)))


def _optimizer(model: nn.Module, params: TrainParams) -> torch.optim.Optimizer:
    rate, decay, momentum = params.learning_rate, params.weight_decay, params.momentum
    if params.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, momentum=momentum)
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, betas=(momentum, 0.999))


def _schedule(optimizer: torch.optim.Optimizer, params: TrainParams, *, num_steps: int) -> LRScheduler:
    factor = partial(
        rate_factor,
        num_steps=num_steps,
        warmup_steps=params.warmup_samples // params.batch_size,
        schedule=params.schedule,
    )
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    batches: Iterable[Batch],
    device: torch.device,
) -> Scored:
    model.train()
    passes = []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        scored = _forward(model, batch, device)
        scored.loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        passes.append(_Pass(*(column.detach() for column in scored)))  # the graph must not outlive its batch
    return _gathered(passes)


def _all_epochs(
    batches: Iterable[Batch], sampler: EpochSampler, params: TrainParams, augment: AugmentParams
) -> Iterator[Batch]:
    """The batches of one epoch after another, varied; what an epoch draws depends on the seed and its number alone."""
    for epoch in range(params.epochs):
        sampler.epoch = epoch
        generator = torch.Generator().manual_seed(1_000_003 * params.seed + epoch)
        for batch in batches:
            yield batch._replace(hu=apply_turns(batch.hu, draw_turns(len(batch.hu), augment, generator)))


def _forward(model: nn.Module, batch: Batch, device: torch.device) -> _Pass:
    hu, is_nodule, row = (column.to(device, non_blocking=True) for column in batch)
    logits, probabilities = model(hu.float().contiguous(memory_format=torch.channels_last_3d))
    return _Pass(row, is_nodule, probabilities[:, 1], F.cross_entropy(logits, is_nodule, reduction="none"))


def _gathered(passes: list[_Pass]) -> Scored:
    return Scored(*(torch.cat(column).cpu().numpy() for column in zip(*passes, strict=True)))


def _metrics(split: str, scored: Scored, threshold: float) -> dict[str, float]:
    values = classification_metrics(scored.is_nodule == 1, scored.score, scored.loss, threshold=threshold)
    return {f"{split}/{name}": value for name, value in values.items()}


def _check_finite(scored: Scored, epoch: int) -> None:
    broken = ~np.isfinite(scored.loss)
    if broken.any():
        raise InputError(
            f"the loss is no longer finite in epoch {epoch}, after {int(broken.argmax())} samples of it: "
            "lower train.learning_rate or train.momentum"
        )
