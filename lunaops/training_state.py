"""Everything that changes while a model is trained, so that it can be kept and given back."""

from typing import Any

import torch
from torch import Tensor

from lunaops.device import place_model
from lunaops.model import LunaModel
from lunaops.optimisation import make_optimizer
from lunaops.params import Precision, TrainParams
from lunaops.scoring import NOTHING, Scored


class TrainingState:
    """A model in training: its weights, its optimiser and its place in the run.

    `epoch` epochs are complete, with `samples` samples; of the one under way `step` batches are done, which left
    `scored` behind and gradients whose norms have the mean `grad_norm`. `precision` is None until it was tried.
    No generator is kept: what is drawn follows from the seed and the place in the run alone.
    """

    def __init__(self, model: LunaModel, params: TrainParams, device: torch.device) -> None:
        place_model(model, device)
        self.model = model
        self.device = device
        self.optimizer = make_optimizer(model, params)
        self.precision: Precision | None = None
        self.epoch = self.step = self.samples = 0
        self.val_scores: list[float] = []
        self.scored = NOTHING
        self._sum_of_norms = 0.0

    @property
    def grad_norm(self) -> float:
        """The mean norm of the gradients in the epoch under way, before they were clipped."""
        return self._sum_of_norms / max(self.step, 1)

    def take(self, scored: Scored, sum_of_norms: float) -> None:
        """Add what further batches of the epoch left behind."""
        self.scored = self.scored.followed_by(scored)
        self._sum_of_norms += sum_of_norms

    def complete_epoch(self, samples: int, *, val_score: float) -> None:
        """The epoch under way has ended with this validation score."""
        self.epoch, self.step, self.samples = self.epoch + 1, 0, self.samples + samples
        self.val_scores.append(val_score)
        self.scored, self._sum_of_norms = NOTHING, 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Weights, the optimiser's moments, and what the epoch under way left behind."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
        columns = vars(self.scored).items()
        return tensors | {f"scored.{name}": torch.from_numpy(column) for name, column in columns}

    def facts(self) -> dict[str, Any]:
        """The place in the run."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "samples": self.samples,
            "val_scores": self.val_scores,
            "precision": self.precision,
            "sum_of_norms": self._sum_of_norms,
        }

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take back what `tensors` and `facts` gave."""
        of = {kind: _below(tensors, kind) for kind in ("model", "optimizer", "scored")}
        self.model.load_state_dict(of["model"], strict=True)
        self._restore_optimizer(of["optimizer"])
        self.scored = Scored(**{name: tensor.numpy() for name, tensor in of["scored"].items()})
        self.epoch, self.step, self.samples = facts["epoch"], facts["step"], facts["samples"]
        self.val_scores, self.precision = facts["val_scores"], facts["precision"]
        self._sum_of_norms = facts["sum_of_norms"]

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            like = trained[int(number)]
            laid_out = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            moments.setdefault(int(number), {})[name] = laid_out  # in the weights' memory order: a step stays quick
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def _below(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.partition(".")[0] == kind}
