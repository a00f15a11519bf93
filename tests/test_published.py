import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lunaops.errors import InputError
from lunaops.model import LunaModel
from lunaops.published import read_published

SIZE = (16, 16, 16)


def published(channels: int = 2, size: tuple[int, int, int] = SIZE) -> dict[str, Tensor]:
    return LunaModel(size, channels, torch.Generator().manual_seed(5)).state_dict()


def saved(folder: Path, content: Any, *, zipped: bool = True) -> Path:
    torch.save(content, folder / "weights.state", _use_new_zipfile_serialization=zipped)
    return folder / "weights.state"


def book_checkpoint() -> dict[str, Any]:
    """The book's training scripts save these keys."""
    model = LunaModel(SIZE, 2, torch.Generator().manual_seed(5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.99)
    model(torch.randn(2, 1, *SIZE))[0].sum().backward()
    optimizer.step()
    return {
        "sys_argv": ["training.py", "--epochs=1"],
        "time": "2020-01-20 19:53:58.164410",
        "model_state": model.state_dict(),
        "model_name": "LunaModel",
        "optimizer_state": optimizer.state_dict(),
        "optimizer_name": "SGD",
        "epoch": 1,
        "totalTrainingSamples_count": 495958,
    }


def same(model: LunaModel, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_the_books_checkpoint_is_read(tmp_path: Path, zipped: bool) -> None:
    checkpoint = book_checkpoint()
    assert same(read_published(saved(tmp_path, checkpoint, zipped=zipped), SIZE), checkpoint["model_state"])


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_a_bare_state_dict_tells_its_channels(tmp_path: Path, channels: int) -> None:
    model = read_published(saved(tmp_path, published(channels)), SIZE)
    assert model.channels == channels
    assert same(model, published(channels))


def test_dataparallels_prefix_is_taken_off(tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in published().items()}
    assert same(read_published(saved(tmp_path, {"state_dict": state}), SIZE), published())


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    save_file(published(), tmp_path / "weights.safetensors")
    assert same(read_published(tmp_path / "weights.safetensors", SIZE), published())


def test_the_books_crop_size_is_held_against_the_head(tmp_path: Path) -> None:
    path = saved(tmp_path, published(size=(32, 48, 48)))
    assert read_published(path, (32, 48, 48)).crop_size_irc == (32, 48, 48)
    with pytest.raises(
        InputError, match=r"head_linear.weight is \(2, 288\), wanted \(2, 512\); crops of \(32, 64, 64\) .*--crop-size"
    ):
        read_published(path, (32, 64, 64))


class Harmful:
    """What makes a pickle run a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, {"model_state": published(), "more": Harmful(tmp_path / "ran")}, zipped=zipped)
    with pytest.raises(InputError, match=r"weights.state: refused: to load it would run \w+\.system, code of"):
        read_published(path, SIZE)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refused: .* lunaops.model.LunaModel, .* model.state_dict\(\) alone"):
        read_published(saved(tmp_path, LunaModel(SIZE)), SIZE)


def test_wrong_names_are_named(tmp_path: Path) -> None:
    state = published()
    state["fc.weight"] = state.pop("head_linear.weight")
    with pytest.raises(InputError, match="it lacks head_linear.weight and also has fc.weight$"):
        read_published(saved(tmp_path, state), SIZE)


def test_another_network_is_named_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="not LunaModel's weights: it lacks block1.conv1.bias, .* and 19 more and"
    ) as e:
        read_published(saved(tmp_path, torch.nn.Linear(2, 2).state_dict()), SIZE)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", [torch.zeros(1), torch.zeros(1, dtype=torch.int32), "no tensor"])
def test_names_of_a_foreign_file_stay_in_the_line(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"weights.state: [^\n]*a b[^\n]*$"):
        read_published(saved(tmp_path, {"a\n b": value} | published()), SIZE)


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    state = published() | {"block2.conv1.bias": torch.zeros(5), "head_linear.bias": torch.zeros(3)}
    with pytest.raises(InputError, match=r"block2.conv1.bias is \(5,\), wanted \(4,\), head_linear.bias is \(3,\)"):
        read_published(saved(tmp_path, state), SIZE)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    state = published()
    state["block3.conv2.weight"][0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"not finite: block3.conv2.weight;"):
        read_published(saved(tmp_path, state), SIZE)


def test_weights_that_only_double_precision_holds_are_not_finite(tmp_path: Path) -> None:
    state = published() | {"head_linear.bias": torch.tensor([1e300, 0.0], dtype=torch.float64)}
    with pytest.raises(InputError, match=r"not finite: head_linear.bias;"):
        read_published(saved(tmp_path, state), SIZE)


@pytest.mark.parametrize("number_format", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_another_floating_point_format_are_read(tmp_path: Path, number_format: torch.dtype) -> None:
    state = {name: value.to(number_format) for name, value in published().items()}
    model = read_published(saved(tmp_path, state), SIZE)
    assert same(model, {name: value.to(published()[name].dtype) for name, value in state.items()})


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        (lambda value: value.to_sparse(), "sparse_coo"),
        (lambda value: value.to_sparse_csr(), "sparse_csr"),
        (lambda value: value.to("meta"), "without data"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "qint8"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to(torch.int64), "int64"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda value: torch.nested.nested_tensor([value[0], value[1]]), "nested"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of what it calls a prototype
def test_tensors_that_hold_no_floating_point_numbers_are_named(
    tmp_path: Path, changed: Callable[[Tensor], Tensor], kind: str
) -> None:
    state = published() | {"head_linear.bias": changed(torch.ones(2, 2))}
    with pytest.raises(InputError, match=rf"weights.state: head_linear.bias is {kind}; wanted are dense floating-po"):
        read_published(saved(tmp_path, state), SIZE)


@pytest.mark.parametrize("channels", [0, 257, 10**9])
def test_a_number_of_channels_that_no_model_has_is_refused_before_one_is_made(tmp_path: Path, channels: int) -> None:
    state = published() | {"block1.conv1.weight": torch.zeros(1, 1, 1, 1, 1).expand(channels, 1, 3, 3, 3)}
    with pytest.raises(InputError, match=f"block1.conv1.weight has {channels} channels, wanted are 1 to 256$"):
        read_published(saved(tmp_path, state), SIZE)


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    state = published() | {"tail_batchnorm.running_var": torch.tensor([-1.0])}
    with pytest.raises(InputError, match=r"a negative variance: tail_batchnorm.running_var;"):
        read_published(saved(tmp_path, state), SIZE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds list; wanted are tensors by name"),
        ({}, "it holds nothing;"),
        ({"model_state": {"epoch": 3}}, "no state dict: it holds epoch;"),
        ({"epoch": 3, "weights": published()}, "no state dict: it holds epoch, weights;"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_published(saved(tmp_path, content), SIZE)


@pytest.mark.parametrize("content", [b"", b"weights, honestly", b"\x89PNG"])
def test_what_is_no_torch_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"weights.pt: not a torch file; the name of a safetensors file must end in"):
        read_published(tmp_path / "weights.pt", SIZE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.002, 0.05, 0.4, 0.9])
def test_a_file_that_ends_too_early_is_refused(tmp_path: Path, zipped: bool, share: float) -> None:
    path = saved(tmp_path, published(), zipped=zipped)
    path.write_bytes(path.read_bytes()[: max(20, int(share * path.stat().st_size))])
    with pytest.raises(InputError, match=r"weights.state: damaged, or no file of weights: .*; fetch it again"):
        read_published(path, SIZE)


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(InputError, match=r"weights.safetensors: (damaged|no state dict)"):
        read_published(tmp_path / "weights.safetensors", SIZE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing.pt: no such file"):
        read_published(tmp_path / "nothing.pt", SIZE)
