import logging
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lunaops.errors import InputError
from lunaops.finetuning import freeze, init_from
from lunaops.model import LunaModel, write_model
from lunaops.task import MALIGNANCY, NODULE

SIZE = (16, 16, 16)
PARTS = ["tail_batchnorm", "block1", "block2", "block3", "block4", "head_linear"]


def model_of(seed: int, size: tuple[int, int, int] = SIZE, channels: int = 2) -> LunaModel:
    return LunaModel(size, channels, torch.Generator().manual_seed(seed))


def on_disk(folder: Path, model: LunaModel) -> Path:
    model(300 * torch.randn(4, 1, *model.crop_size_irc))  # its running statistics are no longer those of a fresh model
    write_model(model, folder, {"epoch": 3})
    return folder


def taken_over(model: LunaModel, start: LunaModel) -> list[str]:
    """The parts of `model` whose weights and statistics are those of `start`."""
    ours, its = model.state_dict(), start.state_dict()
    return [part for part in PARTS if all(torch.equal(ours[n], its[n]) for n in ours if n.startswith(f"{part}."))]


def test_every_layer_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, start = model_of(0), model_of(1)
    with caplog.at_level(logging.INFO):
        init_from(model, on_disk(tmp_path / "best", start), NODULE)
    assert taken_over(model, start) == PARTS
    assert "best: its blocks, and its head" in caplog.text


def test_other_classes_get_the_blocks_and_a_fresh_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, start = model_of(0), model_of(1)
    with caplog.at_level(logging.INFO):
        init_from(model, on_disk(tmp_path, start), MALIGNANCY)
    assert taken_over(model, start) == PARTS[:-1]
    assert taken_over(model, model_of(0)) == ["head_linear"]
    assert caplog.text.strip().endswith("a fresh head: it was made for model.task nodule, this is malignancy")


@pytest.mark.parametrize("size", [(16, 32, 16), (16, 16, 32)])
def test_crops_of_another_size_get_the_blocks_and_a_fresh_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: tuple[int, int, int]
) -> None:
    """(16, 16, 32) has as many inputs to the head as (16, 32, 16), but at other places."""
    model, start = model_of(0, size), model_of(1, (16, 32, 16))
    with caplog.at_level(logging.INFO):
        init_from(model, on_disk(tmp_path, start), NODULE)
    fits = size == (16, 32, 16)
    assert taken_over(model, start) == (PARTS if fits else PARTS[:-1])
    assert ("a fresh head: it was made for crops of (16, 32, 16), these are (16, 16, 32)" in caplog.text) != fits


def test_a_crop_a_little_larger_keeps_the_head(tmp_path: Path) -> None:
    model, start = model_of(0, (16, 20, 31)), model_of(1)
    init_from(model, on_disk(tmp_path, start), NODULE)
    assert taken_over(model, start) == PARTS


def test_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"first block has 3 channels, model.channels is 2: set model.channels to 3"):
        init_from(model_of(0), on_disk(tmp_path, model_of(1, channels=3)), NODULE)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no usable model"):
        init_from(model_of(0), tmp_path / "nowhere", NODULE)


def trained_parts(model: LunaModel) -> list[str]:
    """The parts that two steps of training change, running statistics included."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    generator = torch.Generator().manual_seed(2)
    for _ in range(2):
        optimizer.zero_grad()
        hu = 300 * torch.randn(4, 1, *SIZE, generator=generator) - 500
        F.cross_entropy(model(hu)[0], torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    after = model.state_dict()
    return [part for part in PARTS if any(not torch.equal(before[n], after[n]) for n in after if n.startswith(part))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable_blocks", "wanted"),
    [(0, PARTS[5:]), (1, PARTS[4:]), (2, PARTS[3:]), (3, PARTS[2:]), (4, PARTS), (None, PARTS)],
)
def test_training_changes_the_last_blocks_and_the_head_alone(trainable_blocks: int | None, wanted: list[str]) -> None:
    model = model_of(0)
    freeze(model, trainable_blocks)
    assert trained_parts(model) == wanted


def test_frozen_input_statistics_are_used_in_training_as_in_validation() -> None:
    model = model_of(0)
    freeze(model, 0)
    hu = 300 * torch.randn(4, 1, *SIZE) - 500
    assert torch.equal(model.train()(hu)[0], model.eval()(hu)[0])
    assert not torch.equal(model_of(0).train()(hu)[0], model_of(0).eval()(hu)[0])


def test_all_but_the_input_goes_into_training_mode() -> None:
    model = model_of(0)
    freeze(model, 2)
    model.eval().train()
    assert model.training
    assert model.block1.training
    assert not model.tail_batchnorm.training
