"""Published weights of LunaModel's architecture: a foreign file becomes a model, and no code in it is ever run."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lunaops.errors import InputError
from lunaops.model import LunaModel

STATE_KEYS = ("model_state", "model_state_dict", "state_dict")  # the book's checkpoints; other habits
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")  # zip; before torch 1.6
# What torch.load and safetensors were seen to raise on cut and altered files; UnicodeDecodeError is a ValueError.
_DAMAGED = (
    SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, StructError,
)  # fmt: skip
_NAMED = 4  # so many names are written out in an error


def read_published(path: Path, crop_size_irc: tuple[int, int, int]) -> LunaModel:
    """Read a model of crops of `crop_size_irc` from a .safetensors or torch file.

    The file is a state dict, or a checkpoint that holds one under one of STATE_KEYS, with or without the prefix
    'module.' that DataParallel leaves. The number of channels follows from the weights; the crop size does not, as
    several give the same number of inputs to the head. Raises InputError where the file is none of that, would need
    code to be run, or does not fit strictly.
    """
    state = _state_dict(_read_tensors(path), path)
    first = state.get("block1.conv1.weight")
    model = LunaModel(crop_size_irc, first.shape[0] if first is not None and first.ndim == 5 else 8)
    _check_fit(state, model, path)
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
        held = ", ".join(map(str, list(found)[:_NAMED])) if isinstance(found, Mapping) else type(found).__name__
        raise InputError(
            f"{path}: no state dict: it holds {held or 'nothing'}; wanted are tensors by name, or a checkpoint with "
            f"them under {', '.join(STATE_KEYS)}"
        )
    return {str(name).removeprefix("module."): value for name, value in found.items()}


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
    broken = [name for name, value in state.items() if not bool(value.isfinite().all())]
    if broken:
        raise InputError(f"{path}: not finite: {_some(broken)}; the training that made it had diverged")


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
