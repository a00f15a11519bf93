"""fit(): trains a model and yields one EpochResult after another. It knows no file and no tracker."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lunaops.augment import apply_augmentation, draw_augmentation
from lunaops.compiled import CompiledModel
from lunaops.dataset import Batch, Batches, CropDataset
from lunaops.device import WaitTimer, on_device
from lunaops.distributed import ALONE, World, part_ends
from lunaops.errors import InputError
from lunaops.interrupts import Interrupted
from lunaops.memory import keep_freed_memory
from lunaops.metrics import classification_metrics
from lunaops.optimisation import is_stalled, learning_rate, set_learning_rate
from lunaops.params import AugmentParams, Precision, TrainParams
from lunaops.precision import chosen_precision, set_determinism, set_tf32, trusted_precision
from lunaops.progress import progress
from lunaops.sampling import EpochSampler, TableSampler
from lunaops.scoring import Pass, Scored, gathered, network_input, score_batch, score_batches
from lunaops.training_state import TrainingState

logger = logging.getLogger(__name__)

_REMEDY = "lower train.learning_rate or train.momentum, or set train.clip_norm; the last good checkpoint is kept"


@dataclass(frozen=True)
class EpochResult:
    """One epoch: `epoch` counts from 1, `samples` are the training samples seen since the start of the run.

    `metrics` are the same in every run of the same seed, data and devices; `speed` is not.
    """

    epoch: int
    samples: int
    train: Scored
    val: Scored
    metrics: dict[str, float]
    speed: dict[str, float]


def fit(
    state: TrainingState,
    train: CropDataset,
    val: CropDataset,
    *,
    spacing_irc: NDArray[np.float64],
    params: TrainParams,
    augment: AugmentParams,
    world: World = ALONE,
    stop: threading.Event | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Iterator[EpochResult]:
    """Go on training from where `state` is, changing it in place, and validate after each epoch.

    The loss is the cross entropy of the logits. `spacing_irc` (n, 3) are the voxels' mm in each row of `train`, which
    augmentation goes by. The same seed, data and devices give the same results, whatever the
    number of loader workers and wherever a run was interrupted. `checkpoint` is called within an epoch when
    `train.checkpoint_every` samples were seen and before the epoch is left for `stop`; what follows an epoch is the
    caller's. Raises InputError where a class to be drawn is empty, or where the loss is no longer finite; Interrupted
    when `stop` was set, after the step under way.
    """
    keep_freed_memory()
    set_determinism(params.deterministic)
    sampler = EpochSampler(
        train.is_positive,
        samples=params.samples_per_epoch,
        batch_size=params.batch_size,
        balance=params.balance,
        seed=params.seed,
        rank=world.rank,
        world_size=world.size,
    )
    pin = state.device.type == "cuda"
    train_batches = Batches(train, sampler, num_workers=params.num_workers, pin=pin)
    val_sampler = TableSampler(len(val), batch_size=params.batch_size, rank=world.rank, world_size=world.size)
    val_batches = Batches(val, val_sampler, num_workers=params.num_workers, pin=pin)
    if state.precision is None:
        state.precision = _tried_precision(state, val, params, world)
    set_tf32(state.precision)
    stop = stop or threading.Event()
    loop = _Loop(state, train, sampler, spacing_irc, params, augment, world, stop, checkpoint)
    num_batches = (params.epochs - state.epoch) * len(sampler) - state.step
    batches = iter(loop.said(loop.all_batches(train_batches), label="train", total=num_batches))
    while state.epoch < params.epochs and not is_stalled(state.val_scores, params.patience):
        speed = loop.train_epoch(batches)
        validated = score_batches(
            state.model, loop.said(val_batches, label="validate"), state.device, state.precision
        ).gathered(world, total=len(val), batch_size=params.batch_size)
        if not np.isfinite(validated.loss).all():
            raise InputError(f"the loss on val is not finite after epoch {state.epoch + 1}: {_REMEDY}")
        yield loop.finish_epoch(validated, speed)
    if state.epoch == params.epochs:
        next(batches, None)  # and the progress says that it is done
    else:
        logger.info("no better epoch in %d: stopped early, after epoch %d", params.patience, state.epoch)


@dataclass(eq=False)
class _Loop:
    """The epochs' inside: batches in, steps done, checkpoints called for."""

    state: TrainingState
    train: CropDataset
    sampler: EpochSampler
    spacing_irc: NDArray[np.float64]
    params: TrainParams
    augment: AugmentParams
    world: World
    stop: threading.Event
    checkpoint: Callable[[], None]

    def __post_init__(self) -> None:
        self.world.share_input_statistics(self.state.model.tail_batchnorm)
        network = self.state.model
        self.forward = self.world.wrapped(CompiledModel(network) if self.params.compile else network)
        self._waits = WaitTimer(self.state.device)
        self._passes: list[Pass] = []
        self._norms: list[Tensor] = []

    def said(self, batches: Iterable[Batch], *, label: str, total: int | None = None) -> Iterable[Batch]:
        """The batches; how far they are is said by one process."""
        return progress(batches, label=label, unit="batches", total=total) if self.world.is_first else batches

    def all_batches(self, loader: Batches) -> Iterator[Batch]:
        """This process's share of the batches that are still to come, on the device, varied.

        What an epoch draws depends on the seed, its number and the batch's number alone.
        """
        for epoch in range(self.state.epoch, self.params.epochs):
            self.sampler.epoch = epoch
            self.sampler.first_step = first = self.state.step if epoch == self.state.epoch else 0
            moved = on_device(loader, self.state.device)
            timed = self._waits.timed(moved)
            for step, (batch, rows) in enumerate(zip(timed, self.sampler, strict=True), start=first):
                yield self._varied(batch, rows, epoch, step)

    def _varied(self, batch: Batch, rows: list[int], epoch: int, step: int) -> Batch:
        """The batch, varied; its `rows` are said again, for those in it are on the device, which is not waited for."""
        seed = np.random.SeedSequence([self.params.seed, 4, epoch, step]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> 1))
        drawn = draw_augmentation(self._batch_length(step), self.augment, generator)
        mine = drawn.rows(slice(self.world.rank, None, self.world.size))
        spacing_irc, pad_hu = torch.from_numpy(self.spacing_irc[rows]), self.train.crops.manifest.geometry.pad_hu
        hu = apply_augmentation(batch.hu, mine, spacing_irc, pad_hu=pad_hu)
        return batch._replace(hu=hu)

    def _batch_length(self, step: int) -> int:
        """The samples of a batch over all processes: the last may be shorter."""
        return min(self.params.batch_size, self.sampler.samples - step * self.params.batch_size)

    def train_epoch(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Do the steps that are left of the epoch; how fast that was."""
        started, samples = time.perf_counter(), 0
        self.forward.train()
        while self.state.step < len(self.sampler):
            batch = next(batches)
            samples += self._batch_length(self.state.step)
            self._step(batch)
            if self.world.any(self.stop.is_set()):
                self._keep()
                self.checkpoint()
                raise Interrupted
            if self._is_due():
                self._keep()
                self.checkpoint()
        self._keep()
        waited = self._waits.seconds()
        seconds = time.perf_counter() - started
        return {
            "train/samples_per_second": samples / seconds,
            "train/data_wait_share": waited / seconds,
            **_peak_memory(self.state.device),
        }

    def finish_epoch(self, validated: Scored, speed: dict[str, float]) -> EpochResult:
        """Count the epoch as complete."""
        state, params = self.state, self.params
        trained = state.scored
        metrics = {**_metrics("train", trained, params.threshold), **_metrics("val", validated, params.threshold)}
        norms = torch.stack([parameter.detach().norm() for parameter in state.model.parameters()])
        metrics |= {
            "train/learning_rate": float(state.optimizer.param_groups[0]["lr"]),
            "train/grad_norm": state.grad_norm,
            "train/weight_norm": float(norms.norm()),
        }
        state.complete_epoch(len(trained.row), val_score=validation_score(metrics, params.best_by))
        return EpochResult(state.epoch, state.samples, trained, validated, metrics, speed)

    def _step(self, batch: Batch) -> None:
        state, params = self.state, self.params
        rate = learning_rate(
            params,
            step=state.epoch * len(self.sampler) + state.step,
            steps_per_epoch=len(self.sampler),
            val_scores=state.val_scores,
        )
        set_learning_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        weight = self.world.size / self._batch_length(state.step)  # DistributedDataParallel divides by its size
        pieces = self._pieces(batch)
        assert state.precision is not None
        for place, piece in enumerate(pieces):
            with self._accumulating(is_last=place == len(pieces) - 1):
                scored = score_batch(self.forward, piece, state.precision)
                (scored.loss.sum() * weight).backward()  # type: ignore[no-untyped-call]
            self._passes.append(Pass(*(column.detach() for column in scored)))  # the graph must not outlive its batch
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), params.clip_norm or torch.inf)
        self._norms.append(norm.detach())
        state.optimizer.step()
        state.step += 1

    def _pieces(self, batch: Batch) -> list[Batch]:
        """This process's share of each of the whole batch's `train.accumulate` parts; no part is empty everywhere."""
        length = self._batch_length(self.state.step)
        parts = min(self.params.accumulate, length)
        ends = part_ends(self.world.rank, self.world.size, length=length, parts=parts)
        return [Batch(*columns) for columns in zip(*(c.tensor_split(ends) for c in batch), strict=True)]

    def _accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes with the last part of a batch only."""
        if isinstance(self.forward, DistributedDataParallel) and not is_last:
            return self.forward.no_sync()
        return nullcontext()

    def _is_due(self) -> bool:
        every, size = self.params.checkpoint_every, self.params.batch_size
        done = self.state.step * size
        return every > 0 and self.state.step < len(self.sampler) and done // every > (done - size) // every

    def _keep(self) -> None:
        """Take the passes since the last time into the state, if their losses are finite."""
        if not self._passes:
            return
        done = min(self.state.step * self.params.batch_size, self.sampler.samples) - len(self.state.scored.row)
        new = gathered(self._passes).gathered(self.world, total=done, batch_size=self.params.batch_size)
        self._check_finite(new)
        sum_of_norms = torch.stack(self._norms).double().sum().item()
        if not math.isfinite(sum_of_norms):
            raise InputError(f"a gradient is no longer finite in epoch {self.state.epoch + 1}: {_REMEDY}")
        self.state.take(new, sum_of_norms)
        self._passes, self._norms = [], []

    def _check_finite(self, scored: Scored) -> None:
        broken = np.flatnonzero(~np.isfinite(scored.loss))
        if len(broken):
            place = len(self.state.scored.row) + int(broken[0])
            step = place // self.params.batch_size
            rows = scored.row[broken[broken < (step + 1) * self.params.batch_size - len(self.state.scored.row)]]
            candidate_ids = self.train.table["candidate_id"].iloc[rows].tolist()
            raise InputError(
                f"the loss is no longer finite in epoch {self.state.epoch + 1}, batch {step + 1}, for the candidates "
                f"{candidate_ids}: {_REMEDY}"
            )


def validation_score(metrics: dict[str, float], best_by: str) -> float:
    """The validation metric by which epochs are compared, the higher the better; NaN where it is undefined."""
    value = metrics[f"val/{best_by}"]
    return -value if best_by.startswith("loss/") else value


def _tried_precision(state: TrainingState, val: CropDataset, params: TrainParams, world: World) -> Precision:
    wanted = chosen_precision(params.precision, state.device)
    if world.any(wanted == "fp32"):  # auto, and another machine
        return "fp32"
    crops = val.__getitems__(range(min(len(val), params.batch_size))).hu.to(state.device)
    trusted = trusted_precision(state.model, network_input(crops), wanted, params.precision_tolerance)
    return "fp32" if world.any(trusted == "fp32") else trusted


def _metrics(split: str, scored: Scored, threshold: float) -> dict[str, float]:
    values = classification_metrics(scored.is_positive == 1, scored.score, scored.loss, threshold=threshold)
    return {f"{split}/{name}": value for name, value in values.items()}


def _peak_memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {"train/peak_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20}
