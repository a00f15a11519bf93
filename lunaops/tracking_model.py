"""The trained model as MLflow serves it: an exported graph, without pickle and without this machine's paths."""

import copy
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

_LIBRARIES = ("mlflow", "numpy", "torch")  # what serving needs


def save_served_model(model: "nn.Module", example_hu: NDArray[np.float32], folder: Path) -> None:
    """Write an MLflow model that takes (n, 1, I, R, C) HU as float32 and returns the probabilities (n, 2).

    `model` returns (logits, probabilities) and stays as it is; `example_hu` is one crop, (1, 1, I, R, C).
    """
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    float32 = np.dtype(np.float32)
    mlflow.pytorch.save_model(
        _scorer(model),
        str(folder),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(float32, (-1, *example_hu.shape[1:]))]),
            outputs=Schema([TensorSpec(float32, (-1, 2))]),
        ),
        input_example=np.repeat(example_hu, 2, axis=0),  # an export from one sample would only ever take one
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _LIBRARIES],
        serialization_format="pt2",
    )
    _forget_source_lines(folder / "data" / "model.pt2")


def address_served_model(folder: Path, *, run_id: str, model_id: str) -> None:
    """Write into a saved model which run and which logged model it is, once MLflow has said so."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    model.artifact_path, model.run_id = f"models:/{model_id}", run_id
    model.model_uuid = model.model_id = model_id
    fresh = folder.with_name(f"{folder.name}.new")  # whoever is killed here leaves the file as it was
    model.save(str(fresh))
    fresh.replace(folder / "MLmodel")


def _scorer(model: "nn.Module") -> "nn.Module":
    """Build what is served: a copy in evaluation mode on the CPU with one output, which is all MLflow can serve."""
    import torch
    from torch import nn

    class Scorer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model).cpu().eval()

        def forward(self, hu: torch.Tensor) -> torch.Tensor:
            probabilities: torch.Tensor = self.model(hu)[1]
            return probabilities

    scorer = Scorer().eval()
    for parameter in scorer.parameters():  # torch archives weights in another memory order with a warning
        parameter.data = parameter.data.contiguous()
    return scorer


def _forget_source_lines(file: Path) -> None:
    """Remove from every node of the graph where in the source it came from: the files' paths on this machine."""
    import torch

    program = torch.export.load(file)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, file)
