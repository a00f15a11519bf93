"""Published weights of LunaModel's architecture: a foreign file becomes a model, and no code in it is ever run."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import Any
from warnings import catch_warnings

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lunaops.errors import InputError
from lunaops.model import LunaModel
from lunaops.params import MAX_CHANNELS

STATE_KEYS = ("model_state", "model_state_dict", "state_dict")  # the book's checkpoints; other habits
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")  # zip; before torch 1.6
# What torch.load and safetensors were seen to raise on cut and altered files; UnicodeDecodeError is a ValueError.
_DAMAGED = (
    SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, StructError,
)  # fmt: skip
_FORMATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNT = "num_batches_tracked"  # the end of the one name whose tensor is an integer, and is used for nothing
_NAMED = 4  # so many names are written out in an error


def read_published(path: Path, crop_size_irc: tuple[int, int, int]) -> LunaModel:
    """Read a model of crops of `crop_size_irc` from a .safetensors or torch file.

    The file is a state dict, or a checkpoint that holds one under one of STATE_KEYS, with or without the prefix
    'module.' that DataParallel leaves. The number of channels follows from the weights; the crop size does not, as
    several give the same number of inputs to the head. Raises InputError where the file is none of that, would need
    code to be run, does not fit strictly, or where its tensors are other than dense, finite and floating-point.
    """
    state = _state_dict(_read_tensors(path), path)
    _check_kinds(state, path)
    model = LunaModel(crop_size_irc, _num_channels(state, path))
    _check_fit(state, model, path)
    _check_values(state, path)
    model.load_state_dict(state, strict=True)
    return model


def _read_tensors(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the file of the published weights")
    is_safetensors = path.suffix == ".safetensors"
    with path.open("rb") as file:
        if not is_safetensors and not file.read(16).startswith(_TORCH_MAGIC):
            raise InputError(f"{path}: not a torch file; the name of a safetensors file must end in .safetensors")
    try:
        with catch_warnings(action="ignore"):  # torch's, of kinds of tensors that are refused by name all the same
            return load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, *_DAMAGED) as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path}: refused: to load it would run {wanted[1]}, code of the file's choice; ask its author for "
                "model.state_dict() alone"
            ) from error
        reason = " ".join(str(error).split()) or "it ends too early"
        raise InputError(f"{path}: damaged, or no file of weights: {reason[:200]}; fetch it again") from error


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        found = next((found[key] for key in STATE_KEYS if key in found), found)
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        held = _some([str(name) for name in found]) if isinstance(found, Mapping) else type(found).__name__
        raise InputError(
            f"{path}: no state dict: it holds {held or 'nothing'}; wanted are tensors by name, or a checkpoint with "
            f"them under {', '.join(STATE_KEYS)}"
        )
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _check_kinds(state: dict[str, Tensor], path: Path) -> None:
    unusable = [f"{name} is {kind}" for name, value in state.items() if (kind := _unusable_kind(name, value))]
    if unusable:
        raise InputError(
            f"{path}: {_some(unusable)}; wanted are dense floating-point tensors: ask its author for the "
            "model.state_dict() of the training"
        )


def _unusable_kind(name: str, value: Tensor) -> str:
    """What a tensor is where it cannot become a weight; empty where it can."""
    if value.is_nested or value.layout is not torch.strided:
        return "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
    if value.is_meta:
        return "without data"
    is_count = name.endswith(_COUNT) and value.dtype == torch.int64
    return "" if value.dtype in _FORMATS or is_count else str(value.dtype).removeprefix("torch.")


def _num_channels(state: dict[str, Tensor], path: Path) -> int:
    """Of the first block; where it has no such weights, as many as the book's, for what is missing to be named."""
    first = state.get("block1.conv1.weight")
    if first is None or first.ndim != 5:
        return 8
    if not 1 <= len(first) <= MAX_CHANNELS:
        raise InputError(f"{path}: block1.conv1.weight has {len(first)} channels, wanted are 1 to {MAX_CHANNELS}")
    return len(first)


def _check_fit(state: dict[str, Tensor], model: LunaModel, path: Path) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in state.items()}
    if wanted.keys() != got.keys():
        lacks, strange = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
        parts = [f"{verb} {_some(names)}" for verb, names in (("lacks", lacks), ("also has", strange)) if names]
        raise InputError(f"{path}: not LunaModel's weights: it {' and '.join(parts)}")
    wrong = [f"{name} is {got[name]}, wanted {wanted[name]}" for name in wanted if got[name] != wanted[name]]
    if wrong:
        hint = f"; crops of {model.crop_size_irc} voxels are assumed: give --crop-size as it was trained"
        only_head = all(text.startswith("head_linear.weight") for text in wrong)
        raise InputError(f"{path}: does not fit: {_some(wrong)}{hint if only_head else ''}")


def _check_values(state: dict[str, Tensor], path: Path) -> None:
    broken = [name for name, value in state.items() if not bool(value.float().isfinite().all())]
    if broken:
        raise InputError(f"{path}: not finite: {_some(broken)}; the training that made it had diverged")
    negative = [name for name, value in state.items() if name.endswith("running_var") and bool((value < 0).any())]
    if negative:
        raise InputError(f"{path}: a negative variance: {_some(negative)}; the file is damaged, fetch it again")


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    in_a_line = [" ".join(name.split()) for name in names[:_NAMED]]  # a foreign file may name them as it likes
    return ", ".join(in_a_line) + (f" and {rest} more" if rest > 0 else "")
