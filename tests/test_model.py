import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lunaops.errors import InputError
from lunaops.model import LunaModel, read_model, read_task, write_model
from lunaops.task import MALIGNANCY

SMALL = (16, 16, 16)


def book_forward(model: LunaModel, x: torch.Tensor) -> torch.Tensor:
    """The book's order of operations: ReLU before max-pooling."""
    x = model.tail_batchnorm(x)
    for block in (model.block1, model.block2, model.block3, model.block4):
        x = torch.max_pool3d(torch.relu(block.conv2(torch.relu(block.conv1(x)))), 2)
    return model.head_linear(x.flatten(1))


def test_attribute_names_and_shapes_are_those_of_published_weights() -> None:
    state = {name: tuple(weight.shape) for name, weight in LunaModel().state_dict().items()}
    wanted = {
        "tail_batchnorm.weight": (1,),
        "tail_batchnorm.bias": (1,),
        "tail_batchnorm.running_mean": (1,),
        "tail_batchnorm.running_var": (1,),
        "tail_batchnorm.num_batches_tracked": (),
        "head_linear.weight": (2, 1152),
        "head_linear.bias": (2,),
    }
    channels = [1, 8, 16, 32, 64]
    for number in range(1, 5):
        before, after = channels[number - 1], channels[number]
        wanted |= {
            f"block{number}.conv1.weight": (after, before, 3, 3, 3),
            f"block{number}.conv1.bias": (after,),
            f"block{number}.conv2.weight": (after, after, 3, 3, 3),
            f"block{number}.conv2.bias": (after,),
        }
    assert state == wanted


def test_it_has_222220_parameters() -> None:
    assert sum(parameter.numel() for parameter in LunaModel().parameters()) == 222_220


def test_logits_and_probabilities_of_the_two_classes() -> None:
    logits, probabilities = LunaModel(SMALL)(torch.randn(3, 1, *SMALL))
    assert logits.shape == probabilities.shape == (3, 2)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))  # over the classes, not the batch


def test_outputs_and_gradients_are_those_of_the_books_order() -> None:
    ours, book = LunaModel(SMALL), LunaModel(SMALL)
    book.load_state_dict(ours.state_dict())
    x = 300 * torch.randn(4, 1, *SMALL)
    ours(x)[0].square().sum().backward()
    book_forward(book, x).square().sum().backward()
    torch.testing.assert_close(ours(x)[0], book_forward(book, x))
    for (name, mine), its in zip(ours.named_parameters(), book.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-3, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_a_block_stays_in_the_format_of_autocast() -> None:
    block = LunaModel(SMALL).block1
    x = torch.randn(2, 1, *SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        quick = block(x)
    assert quick.dtype == torch.bfloat16
    torch.testing.assert_close(quick.float(), block(x), rtol=0.05, atol=0.05)


def test_scores_have_all_digits_also_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits, probabilities = LunaModel(SMALL)(torch.randn(4, 1, *SMALL))
    for scores in (logits, probabilities):
        assert scores.dtype == torch.float32
        assert not torch.equal(scores, scores.bfloat16().float())


@pytest.mark.parametrize("size", [(16, 16, 16), (32, 48, 48), (20, 33, 47)])
def test_the_linear_layer_follows_from_the_crop_size(size: tuple[int, int, int]) -> None:
    assert LunaModel(size)(torch.zeros(1, 1, *size))[0].shape == (1, 2)


def test_a_crop_that_four_poolings_leave_nothing_of_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"crop.size_irc: four poolings by 2 want at least 16 voxels, got \(16, 15, 16\)"
    ):
        LunaModel((16, 15, 16))


def test_weights_start_kaiming_normal_by_fan_out_and_biases_uniform_round_zero() -> None:
    model = LunaModel(channels=32, generator=torch.Generator().manual_seed(0))
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            fan_out = module.out_channels * 27
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1), name
            assert module.bias.abs().max() <= 1 / math.sqrt(fan_out), name
            assert abs(module.bias.mean()) < 0.5 / math.sqrt(fan_out), name  # the book's mistake: a mean of -bound


def test_the_same_generator_gives_the_same_model_whatever_the_global_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        return LunaModel(SMALL, generator=torch.Generator().manual_seed(seed)).head_linear.weight

    torch.manual_seed(1)
    first = weights(7)
    torch.manual_seed(2)
    assert torch.equal(first, weights(7))
    assert not torch.equal(first, weights(8))


def test_a_model_is_rebuilt_from_its_folder_alone(tmp_path: Path) -> None:
    model = LunaModel(SMALL, channels=4).eval()
    write_model(model, tmp_path / "best", {"epoch": 3})
    again = read_model(tmp_path / "best").eval()
    x = torch.randn(2, 1, *SMALL)
    assert torch.equal(model(x)[0], again(x)[0])
    assert json.loads((tmp_path / "best" / "model.json").read_text())["epoch"] == 3


def test_a_model_of_other_classes_is_refused_and_one_that_does_not_say_is_of_nodules(tmp_path: Path) -> None:
    write_model(LunaModel(SMALL), tmp_path / "mal", {"task": MALIGNANCY.facts})
    write_model(LunaModel(SMALL), tmp_path / "old", {})
    assert (read_task(tmp_path / "mal"), read_task(tmp_path / "old")) == ("malignancy", "nodule")
    read_model(tmp_path / "old", "nodule")
    with pytest.raises(InputError, match="mal: a model of model.task malignancy, params.yaml says nodule: train again"):
        read_model(tmp_path / "mal", "nodule")


@pytest.mark.parametrize("broken", ["model.json", "weights.safetensors"])
def test_a_folder_without_a_usable_model_is_named(tmp_path: Path, broken: str) -> None:
    write_model(LunaModel(SMALL), tmp_path / "best", {})
    (tmp_path / "best" / broken).write_bytes(b"{}")
    with pytest.raises(InputError, match="best: no usable model: .*; train again, or dvc pull"):
        read_model(tmp_path / "best")
