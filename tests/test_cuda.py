"""What only a GPU can show; skipped where none is. `pytest tests/test_cuda.py` on a machine that has one."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_training import CANDIDATES, PARAMS, Blobs, data, model_of, with_
from torch import Tensor

from lunaops.augment import apply_augmentation, draw_augmentation
from lunaops.dataset import Batch, Batches
from lunaops.device import on_device, place_model
from lunaops.params import AugmentParams, TrainParams
from lunaops.precision import chosen_precision, set_determinism, trusted_precision
from lunaops.sampling import TableSampler
from lunaops.scoring import network_input, score_batches
from lunaops.training import EpochResult, _Loop, fit
from lunaops.training_state import TrainingState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ALL = AugmentParams(flip=True, offset_mm=2.0, scale=0.1, rotate_degrees=180.0, noise_hu=15.0)


def results(state: TrainingState, params: TrainParams) -> Iterator[EpochResult]:
    return fit(state, data("train"), data("val"), spacing_irc=np.ones((12, 3)), params=params, augment=ALL)


def trained(params: TrainParams, device: torch.device = GPU) -> tuple[TrainingState, list[EpochResult]]:
    state = TrainingState(model_of(), params, device)
    return state, list(results(state, params))


def losses(epochs: list[EpochResult]) -> list[float]:
    return [loss for epoch in epochs for loss in (*epoch.train.loss.tolist(), *epoch.val.loss.tolist())]


def assert_equal_weights(one: TrainingState, other: TrainingState) -> None:
    for (name, mine), its in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(mine, its), name


def test_a_gpu_varies_crops_as_the_cpu_does() -> None:
    drawn = draw_augmentation(24, ALL, torch.Generator().manual_seed(1))
    spacing = torch.tensor([[1.25, 0.7, 0.8]]).expand(24, 3)
    batch = Blobs()._block[:, None]
    here, there = (
        apply_augmentation(torch.from_numpy(batch.copy()).to(device), drawn, spacing, pad_hu=-1000).cpu()
        for device in (CPU, GPU)
    )
    torch.testing.assert_close(there, here, rtol=0, atol=0.01)


def test_a_gpu_trains_as_the_cpu_does_in_fp32() -> None:
    (_, here), (_, there) = (trained(PARAMS, device) for device in (CPU, GPU))
    assert [epoch.train.row.tolist() for epoch in here] == [epoch.train.row.tolist() for epoch in there]
    np.testing.assert_allclose(losses(there), losses(here), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_short_formats_are_trusted_and_train_like_fp32(precision: str) -> None:
    (_, exact), (state, quick) = (trained(with_(precision=each)) for each in ("fp32", precision))
    assert state.precision == precision
    np.testing.assert_allclose(losses(quick), losses(exact), rtol=0.2, atol=0.05)


def test_auto_is_a_format_that_the_gpu_multiplies_itself() -> None:
    assert chosen_precision("auto", GPU) == ("bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32")


def test_a_format_that_is_off_is_not_trusted() -> None:
    model = model_of()
    place_model(model, GPU)
    crops = network_input(torch.from_numpy(Blobs()._block[:, None]).to(GPU))
    assert trusted_precision(model, crops, "bf16", 1e-9) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_deterministic_is_bitwise_whatever_the_number_of_threads(precision: str) -> None:
    runs = [trained(with_(deterministic=True, precision=precision, num_workers=number)) for number in (0, 0, 1, 4)]
    set_determinism(False)
    for state, epochs in runs[1:]:
        assert losses(epochs) == losses(runs[0][1])
        assert_equal_weights(state, runs[0][0])


def test_resumed_is_undisturbed_bit_for_bit() -> None:
    params = with_(deterministic=True, precision="bf16", optimizer="adamw")
    undisturbed, epochs = trained(params)
    broken_off = TrainingState(model_of(), params, GPU)
    next(results(broken_off, params))
    kept = {name: tensor.cpu().clone() for name, tensor in broken_off.tensors().items()}
    resumed = TrainingState(model_of(1), params, GPU)
    resumed.restore(kept, broken_off.facts())
    (last,) = results(resumed, params)
    set_determinism(False)
    assert last.train.loss.tolist() == epochs[-1].train.loss.tolist()
    assert_equal_weights(resumed, undisturbed)


def test_a_compiled_network_trains_like_the_plain_one() -> None:
    (_, plain), (_, compiled) = (trained(with_(compile=on)) for on in (False, True))
    np.testing.assert_allclose(losses(compiled), losses(plain), rtol=0.02, atol=0.01)


def test_the_host_waits_for_the_gpu_in_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    params = with_(precision="bf16", clip_norm=1.0, optimizer="adamw", accumulate=2)
    trained(params)  # once before: what is made at first use may wait
    seen = []
    for name in ("_step", "_varied"):
        inside = getattr(_Loop, name)

        def watched(*arguments: object, inside: object = inside) -> object:
            seen.append(inside)
            torch.cuda.set_sync_debug_mode("error")
            try:
                return inside(*arguments)  # type: ignore[operator]
            finally:
                torch.cuda.set_sync_debug_mode("default")

        monkeypatch.setattr(_Loop, name, watched)
    trained(params)
    assert len(seen) == 8


def test_batches_arrive_whole_however_many_are_on_their_way() -> None:
    dataset = data("train")
    order = TableSampler(len(dataset), batch_size=1)
    for _ in range(20):
        batches = on_device(Batches(dataset, order, num_workers=4, pin=True), GPU)
        busy = torch.randn(2048, 2048, device=GPU)
        for number, batch in enumerate(batches):
            busy = busy @ busy  # the copy of a later batch must not overwrite one that is not yet used
            batch.hu.add_(0)
            assert torch.equal(batch.hu.cpu(), dataset.__getitems__([number]).hu)


def test_memory_does_not_grow_with_the_steps() -> None:
    few, many = (trained(with_(epochs=1, samples_per_epoch=samples))[1][0].speed for samples in (16, 160))
    assert many["train/peak_memory_mib"] < few["train/peak_memory_mib"] + 1


def test_scores_are_those_of_the_cpu() -> None:
    def scores(device: torch.device) -> np.ndarray:
        model = model_of()
        place_model(model, device)
        order = TableSampler(24, batch_size=5)
        crops = [Batch(*columns) for columns in batches_of(order)]
        return score_batches(model, crops, device).score

    def batches_of(order: TableSampler) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        block, labels = torch.from_numpy(Blobs()._block), torch.from_numpy(CANDIDATES["is_nodule"].to_numpy(np.int64))
        for rows in order:
            yield block[rows, None], labels[rows], torch.tensor(rows)

    np.testing.assert_allclose(scores(GPU), scores(CPU), rtol=1e-3, atol=1e-5)
