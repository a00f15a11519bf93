from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from lunaops.crops import Block, CropReader, Geometry, Manifest
from lunaops.dataset import CropDataset
from lunaops.errors import InputError
from lunaops.model import LunaModel
from lunaops.params import AugmentParams, TrainParams
from lunaops.training import EpochResult, fit
from lunaops.training_state import TrainingState

SIZE = (16, 16, 16)
PLAIN = AugmentParams(flip=False, offset_mm=0, scale=0, rotate_degrees=0, noise_hu=0)
CPU = torch.device("cpu")
PARAMS = TrainParams(
    launch="python",
    seed=1,
    device="cpu",
    epochs=2,
    samples_per_epoch=16,
    batch_size=8,
    optimizer="sgd",
    learning_rate=0.01,
    schedule="constant",
    warmup_samples=0,
    plateau_patience=2,
    plateau_factor=0.1,
    momentum=0.9,
    weight_decay=0.0,
    clip_norm=0.0,
    accumulate=1,
    balance=1.0,
    threshold=0.5,
    patience=0,
    best_by="average_precision",
    precision="fp32",
    precision_tolerance=0.05,
    compile=False,
    deterministic=False,
    checkpoint_every=0,
    num_workers=0,
    init_from=None,
    trainable_blocks=4,
    keep_checkpoints=0,
)


class Blobs(CropReader):
    """One scan of 24 noisy crops; every third, the positives, has a bright cube in its middle."""

    def __init__(self) -> None:
        block = np.random.default_rng(0).integers(-1000, -700, (24, *SIZE)).astype(np.int16)
        block[::3, 5:11, 5:11, 5:11] = 100
        self._block = block
        manifest = Manifest(Geometry(SIZE, (-1000, 1000), -1000), (Block("1", "", "", 24, ""),))
        super().__init__(manifest, CANDIDATES, None, None)

    def crop(self, series_uid: str, row: int) -> np.ndarray:
        return self._block[row]


CANDIDATES = pd.DataFrame(
    {
        "candidate_id": range(100, 124),
        "series_uid": "1",
        "split": ["train"] * 12 + ["val"] * 12,
        "is_nodule": [index % 3 == 0 for index in range(24)],
        "x": 0.0,
        "y": 0.0,
        "z": 0.0,
    }
)


def data(split: str) -> CropDataset:
    return CropDataset(CANDIDATES, Blobs(), splits=[split])


def model_of(seed: int = 0) -> LunaModel:
    return LunaModel(SIZE, generator=torch.Generator().manual_seed(seed))


def run(
    params: TrainParams = PARAMS,
    model: LunaModel | None = None,
    *,
    train: CropDataset | None = None,
    augment: AugmentParams = PLAIN,
) -> list[EpochResult]:
    state = TrainingState(model or model_of(), params, CPU)
    train = train or data("train")
    spacing_irc = np.ones((len(train), 3))
    return list(fit(state, train, data("val"), spacing_irc=spacing_irc, params=params, augment=augment))


def with_(**changes: Any) -> TrainParams:
    return PARAMS.model_copy(update=changes)


@pytest.mark.slow
def test_it_learns_what_can_be_learnt() -> None:
    last = run(with_(epochs=12))[-1]
    assert last.metrics["val/roc_auc"] == 1.0
    assert last.metrics["val/correct/all"] == 100.0


@pytest.mark.slow
def test_swapped_labels_are_learnt_swapped() -> None:
    swapped = CANDIDATES.assign(is_nodule=~CANDIDATES["is_nodule"])
    train = CropDataset(swapped, Blobs(), splits=["train"])
    params = with_(epochs=12)
    last = run(params, train=train)[-1]
    assert last.metrics["val/roc_auc"] == 0.0


def test_one_step_is_the_optimisers_step_on_the_mean_loss_of_the_batch() -> None:
    params = with_(epochs=1, samples_per_epoch=8, balance=0.0)
    trained, by_hand = model_of(), model_of()
    (result,) = run(params, trained)
    batch = data("train").__getitems__(result.train.row.tolist())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01, momentum=0.9)
    F.cross_entropy(by_hand(batch.hu.float())[0], batch.is_positive).backward()
    optimizer.step()
    for mine, its in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_one_batch_does_not_add_to_the_next() -> None:
    params = with_(epochs=1, balance=0.0, momentum=0.0, samples_per_epoch=12)
    trained, by_hand = model_of(), model_of()
    (result,) = run(params.model_copy(update={"batch_size": 6}), trained)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01)
    for rows in np.split(result.train.row, 2):
        batch = data("train").__getitems__(rows.tolist())
        optimizer.zero_grad()
        F.cross_entropy(by_hand(batch.hu.float())[0], batch.is_positive).backward()
        optimizer.step()
    for mine, its in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_losses_and_another_seed_others(precision: str) -> None:
    first, again, other = (run(with_(precision=precision, seed=seed)) for seed in (1, 1, 2))
    assert first[-1].train.loss.tolist() == again[-1].train.loss.tolist()
    assert first[-1].train.loss.tolist() != other[-1].train.loss.tolist()


def test_bf16_trains_as_fp32_does_but_for_its_rounding() -> None:
    exact, quick = (run(with_(precision=precision))[-1].train.loss for precision in ("fp32", "bf16"))
    assert exact.tolist() != quick.tolist()
    np.testing.assert_allclose(quick, exact, rtol=0.1, atol=0.02)


def test_nothing_kept_has_a_graph_and_everything_is_one_row_a_sample() -> None:
    for result in run():
        for scored, samples in ((result.train, 16), (result.val, 12)):
            for column in (scored.row, scored.is_positive, scored.score, scored.loss):
                assert isinstance(column, np.ndarray)
                assert column.shape == (samples,)


def test_samples_seen_count_on_over_the_epochs() -> None:
    assert [(result.epoch, result.samples) for result in run()] == [(1, 16), (2, 32)]


def test_metrics_are_those_of_both_splits() -> None:
    metrics = run()[0].metrics
    assert metrics["train/num_pos"] == 8
    assert metrics["val/num_pos"] == 4
    assert {"train/loss/pos", "val/pr/f1_score", "val/average_precision", "train/correct/neg"} <= set(metrics)


def test_a_run_that_diverges_stops_with_a_clear_line() -> None:
    with pytest.raises(
        InputError,
        match=r"no longer finite in epoch 1, batch 2, for the candidates \[1[01][0-9].*lower train.learning_rate",
    ):
        run(with_(learning_rate=1e30))


def test_unbalanced_an_epoch_is_the_training_set() -> None:
    (result,) = run(with_(epochs=1, balance=0.0, samples_per_epoch=0))
    assert sorted(result.train.row.tolist()) == list(range(12))


def test_training_crops_are_mirrored_and_validation_crops_are_not() -> None:
    untrained = with_(epochs=1, learning_rate=1e-30)
    plain, mirrored = (run(untrained, augment=PLAIN.model_copy(update={"flip": on}))[0] for on in (False, True))
    assert plain.train.row.tolist() == mirrored.train.row.tolist()
    assert plain.train.loss.tolist() != mirrored.train.loss.tolist()
    np.testing.assert_allclose(plain.val.loss, mirrored.val.loss, rtol=1e-3)


def test_the_schedule_is_what_training_uses() -> None:
    rates = [result.metrics["train/learning_rate"] for result in run(with_(schedule="cosine"))]
    assert rates == pytest.approx([0.005 * (1 + np.cos(np.pi / 4)), 0.005 * (1 + np.cos(3 * np.pi / 4))])


def test_adamw_steps_by_the_learning_rate_whatever_the_gradients_size() -> None:
    params = with_(epochs=1, samples_per_epoch=8, optimizer="adamw", learning_rate=1e-4, weight_decay=0.0)
    before, after = model_of(), model_of()
    run(params, after)
    moved = [(a - b).abs().max().item() for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert moved == pytest.approx([1e-4] * len(moved), rel=0.05)
