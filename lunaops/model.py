"""LunaModel, the book's small 3-D network, and its weights on disk."""

import json
import math
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn

from lunaops import folding
from lunaops.disk import write_whole
from lunaops.errors import InputError
from lunaops.input_norm import InputNorm
from lunaops.params import TaskName
from lunaops.precision import no_autocast


class LunaBlock(nn.Module):
    """Two 3x3x3 convolutions with ReLU, then max-pooling by 2: half the size along each axis."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, I, R, C) to (N, channels, I // 2, R // 2, C // 2)."""
        x = self.relu(self.conv1(x))
        x = self.conv2(x)
        with no_autocast(x.device):  # which on a CPU would pool in float32, for the same maxima
            x = self.maxpool(x)
        pooled: Tensor = self.relu(x)  # commutes with the pooling, which leaves it an eighth of the work
        return pooled


class LunaModel(nn.Module):
    """Crops in HU to the logits and probabilities of a task's two classes, the negative one first.

    The architecture and the attribute names are those of "Deep Learning with PyTorch", part 2, so published
    weights load with strict=True. Weights start Kaiming-normal (fan_out); biases uniform in ±1 / sqrt(fan_out).
    """

    def __init__(
        self,
        crop_size_irc: tuple[int, int, int] = (32, 48, 48),
        channels: int = 8,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if min(crop_size_irc) < 16:
            raise InputError(f"crop.size_irc: four poolings by 2 want at least 16 voxels, got {crop_size_irc}")
        self.crop_size_irc = crop_size_irc
        self.channels = channels
        self.tail_batchnorm = InputNorm()
        self.block1 = LunaBlock(1, channels)
        self.block2 = LunaBlock(channels, channels * 2)
        self.block3 = LunaBlock(channels * 2, channels * 4)
        self.block4 = LunaBlock(channels * 4, channels * 8)
        self.head_linear = nn.Linear(math.prod(self.pooled_size_irc) * channels * 8, 2)
        self.head_softmax = nn.Softmax(dim=1)
        for module in self.modules():
            _initialise(module, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, I, R, C) HU to logits (N, 2) and probabilities (N, 2)."""
        x = self.tail_batchnorm(x)
        if folding.pays(x, self.channels):
            x = folding.folded_blocks(self.blocks, x)
        else:
            for block in self.blocks:
                x = block(x)
        with no_autocast(x.device):  # scores in bf16 would tie
            logits = self.head_linear(x.flatten(1).float())
            return logits, self.head_softmax(logits)

    @property
    def blocks(self) -> tuple[LunaBlock, ...]:
        """The four blocks in their order."""
        return self.block1, self.block2, self.block3, self.block4

    @property
    def pooled_size_irc(self) -> tuple[int, ...]:
        """What four poolings leave of a crop: the slices, rows and columns that the head looks at."""
        return tuple(n // 16 for n in self.crop_size_irc)

    def train(self, mode: bool = True) -> Self:
        """As torch's, but an input normalisation that is frozen keeps its running statistics and uses them."""
        super().train(mode)
        if not self.tail_batchnorm.weight.requires_grad:
            self.tail_batchnorm.eval()
        return self


def _initialise(module: nn.Module, generator: Generator | None) -> None:
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0, mode="fan_out", nonlinearity="relu", generator=generator)
        assert module.bias is not None
        _, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
        bound = 1 / math.sqrt(fan_out)
        nn.init.uniform_(module.bias, -bound, bound, generator)


def write_model(model: LunaModel, folder: Path, facts: dict[str, Any]) -> None:
    """Write weights.safetensors and model.json (architecture and `facts`): the folder alone rebuilds the model."""
    architecture = {"crop_size_irc": list(model.crop_size_irc), "channels": model.channels}
    write_model_files(folder, model.state_dict(), {"model": architecture, **facts})


def write_model_files(folder: Path, weights: dict[str, Tensor], said: dict[str, Any]) -> None:
    """Write what `read_model_files` gives: the weights, and what model.json says."""
    write_whole(folder / "weights.safetensors", save({name: w.contiguous().cpu() for name, w in weights.items()}))
    write_whole(folder / "model.json", f"{json.dumps(said, indent=2)}\n".encode())


def read_model_files(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in `folder`, and what its model.json says. Raises InputError where one is missing or damaged."""
    try:
        return load_file(folder / "weights.safetensors"), json.loads((folder / "model.json").read_text())
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: no usable model: {reason}; train again, or dvc pull") from error


def read_task(folder: Path) -> str:
    """The `model.task` of the model in `folder`; one that does not say, imported or old, tells nodules from others."""
    return _task_said(read_model_files(folder)[1])


def read_model(folder: Path, task: TaskName | None = None) -> LunaModel:
    """Rebuild the model written to `folder`.

    Raises InputError where a file is missing or does not fit, or where the model is of another task than `task`.
    """
    weights, said = read_model_files(folder)
    if task is not None and (its_task := _task_said(said)) != task:
        raise InputError(f"{folder}: a model of model.task {its_task}, params.yaml says {task}: train again")
    try:
        model = LunaModel(tuple(said["model"]["crop_size_irc"]), said["model"]["channels"])
        model.load_state_dict(weights, strict=True)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: no usable model: {reason}; train again, or dvc pull") from error
    return model


def _task_said(said: dict[str, Any]) -> str:
    return str(said.get("task", {}).get("name", "nodule"))
