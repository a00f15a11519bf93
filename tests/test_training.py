from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
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


STILL = PARAMS.model_copy(update={"learning_rate": 1e-30, "balance": 0.0, "samples_per_epoch": 12})


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


class Same(Blobs):
    """All crops are alike, and no mirrored one is."""

    def crop(self, series_uid: str, row: int) -> np.ndarray:
        return self._block[1]


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


def model_without_batch_statistics() -> LunaModel:
    """One whose scores of a crop do not depend on the others in the batch, nor, with STILL, on the epoch."""
    model = model_of()
    model.tail_batchnorm.requires_grad_(False)
    model.tail_batchnorm.load_state_dict(
        model.tail_batchnorm.state_dict() | {"running_mean": torch.tensor([-800.0]), "running_var": torch.tensor([4e4])}
    )
    return model


def run(
    params: TrainParams = PARAMS,
    model: LunaModel | None = None,
    *,
    train: CropDataset | None = None,
    augment: AugmentParams = PLAIN,
    spacing_irc: NDArray[np.float64] | None = None,
) -> list[EpochResult]:
    state = TrainingState(model or model_of(), params, CPU)
    train = train or data("train")
    spacing_irc = np.ones((len(train), 3)) if spacing_irc is None else spacing_irc
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


@pytest.mark.parametrize(("accumulate", "lengths"), [(2, {4}), (3, {2, 3}), (8, {1})])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(accumulate: int, lengths: set[int]) -> None:
    params = with_(epochs=1, samples_per_epoch=8, balance=0.0, accumulate=accumulate)
    trained, whole = model_without_batch_statistics(), model_without_batch_statistics()
    seen = []
    trained.tail_batchnorm.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    (result,) = run(params, trained)
    assert sum(seen[:accumulate]) == 8
    assert set(seen[:accumulate]) == lengths
    (same,) = run(with_(epochs=1, samples_per_epoch=8, balance=0.0), whole)
    assert result.train.row.tolist() == same.train.row.tolist()
    assert result.metrics["train/grad_norm"] == pytest.approx(same.metrics["train/grad_norm"], rel=1e-4)
    for mine, its in zip(trained.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_a_gradient_is_clipped_to_clip_norm_and_reported_as_it_was() -> None:
    def step(clip_norm: float) -> tuple[float, float]:
        model = model_of()
        (result,) = run(with_(epochs=1, samples_per_epoch=8, learning_rate=1.0, clip_norm=clip_norm), model)
        moved = [mine - its for mine, its in zip(model.parameters(), model_of().parameters(), strict=True)]
        return result.metrics["train/grad_norm"], torch.stack([tensor.norm() for tensor in moved]).norm().item()

    norm, moved = step(clip_norm=0.0)
    assert norm == pytest.approx(moved, rel=1e-4)
    assert norm > 0.1
    assert step(clip_norm=0.1) == pytest.approx((norm, 0.1), rel=1e-3)
    assert step(clip_norm=2 * norm) == pytest.approx((norm, norm), rel=1e-3)


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


def test_a_precision_that_is_not_trusted_is_not_trained_in(caplog: pytest.LogCaptureFixture) -> None:
    exact, wary, quick = (
        run(with_(epochs=1, precision=precision, precision_tolerance=tolerance))[0].train.loss
        for precision, tolerance in (("fp32", 1e-9), ("bf16", 1e-9), ("bf16", 0.05))
    )
    assert wary.tolist() == exact.tolist() != quick.tolist()
    assert caplog.text.count("training in fp32") == 1


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


@pytest.mark.parametrize(("threshold", "pos", "neg"), [(0.0, 100.0, 0.0), (1.0, 0.0, 100.0)])
def test_both_splits_are_counted_at_the_threshold(threshold: float, pos: float, neg: float) -> None:
    metrics = run(with_(epochs=1, threshold=threshold))[0].metrics
    for split in ("train", "val"):
        assert (metrics[f"{split}/correct/pos"], metrics[f"{split}/correct/neg"]) == (pos, neg)


def test_validation_scores_are_the_trained_models_of_the_crops_as_they_are() -> None:
    model = model_of()
    result = run(model=model, augment=PLAIN.model_copy(update={"flip": True, "noise_hu": 50}))[-1]
    batch = data("val").__getitems__(range(12))
    with torch.inference_mode():
        by_hand = model.eval()(batch.hu.float())[1][:, 1]
    assert result.val.row.tolist() == list(range(12))
    np.testing.assert_allclose(result.val.score, by_hand, rtol=1e-4)


def test_training_stops_early_where_patience_says_so() -> None:
    patient, impatient = (
        run(STILL.model_copy(update={"epochs": 4, "patience": n}), model_without_batch_statistics()) for n in (0, 1)
    )
    assert [len(patient), len(impatient)] == [4, 2]


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


def test_every_sample_of_every_epoch_is_varied_in_its_own_way() -> None:
    train = CropDataset(CANDIDATES, Same(), splits=["train"])

    def scores(augment: AugmentParams) -> list[float]:
        results = run(STILL, model_without_batch_statistics(), train=train, augment=augment)
        return [score for result in results for score in result.train.score.tolist()]

    assert np.ptp(scores(PLAIN)) < 1e-6
    assert np.diff(np.sort(scores(PLAIN.model_copy(update={"offset_mm": 3.0})))).min() > 1e-5


def test_a_crop_is_moved_by_the_spacing_of_its_own_row() -> None:
    train = CropDataset(CANDIDATES, Same(), splits=["train"])
    augment = PLAIN.model_copy(update={"offset_mm": 3.0})
    thin, thick = np.ones((12, 3)), np.ones((12, 3))
    thick[7] = 4.0
    one, other = (
        run(STILL, model_without_batch_statistics(), train=train, augment=augment, spacing_irc=spacing_irc)[1].train
        for spacing_irc in (thin, thick)
    )
    assert one.row[np.abs(one.score - other.score) > 1e-6].tolist() == [7]


def test_the_schedule_is_what_training_uses() -> None:
    rates = [result.metrics["train/learning_rate"] for result in run(with_(schedule="cosine"))]
    assert rates == pytest.approx([0.005 * (1 + np.cos(np.pi / 4)), 0.005 * (1 + np.cos(3 * np.pi / 4))])


def test_adamw_steps_by_the_learning_rate_whatever_the_gradients_size() -> None:
    params = with_(epochs=1, samples_per_epoch=8, optimizer="adamw", learning_rate=1e-4, weight_decay=0.0)
    before, after = model_of(), model_of()
    run(params, after)
    moved = [(a - b).abs().max().item() for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert moved == pytest.approx([1e-4] * len(moved), rel=0.05)
