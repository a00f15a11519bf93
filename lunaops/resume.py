"""The state of an interrupted training run, in one file that is whole or not there.

Tensors are safetensors, the rest is JSON in the file's metadata: nothing is pickled. DVC deletes a stage's outputs
before it runs the stage, so the file lies outside them.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lunaops.params import Params
from lunaops.provenance import content_digest

logger = logging.getLogger(__name__)

_NAMED_DIFFERENCES = 3
_SECTIONS = ("model", "train", "augment", "split")  # on whose params a training's numbers depend ...
_WITHOUT_EFFECT = {  # ... but for these
    f"train.{name}" for name in ("launch", "device", "num_workers", "checkpoint_every", "keep_checkpoints")
}


class Resumable(Protocol):
    """What can be kept and given back: tensors by name, and facts that JSON holds exactly."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, on any device."""

    def facts(self) -> dict[str, Any]:
        """The rest."""

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take back what the other two gave, on the CPU."""


class ResumeFile:
    """Keeps the parts of a run at `path`; `fingerprint` is all of params and inputs that its numbers depend on."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self._fingerprint = json.loads(json.dumps(fingerprint))

    def write(self, parts: Mapping[str, Resumable], facts: Mapping[str, Any]) -> None:
        """Replace the file, all at once, by the state of the parts and `facts`."""
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().contiguous()
            for part, resumable in parts.items()
            for name, tensor in resumable.tensors().items()
        }
        kept = {"parts": {part: resumable.facts() for part, resumable in parts.items()}, "facts": dict(facts)}
        metadata = {"fingerprint": json.dumps(self._fingerprint), "kept": json.dumps(kept)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        save_file(tensors, unfinished, metadata)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(self.path)

    def restore(self, parts: Mapping[str, Resumable]) -> dict[str, Any]:
        """Give the parts their state back and return the facts; where there is none of this run, change nothing.

        A file of other params or data, or a damaged one, is not used: one line says why. The facts are then empty.
        """
        if not self.path.is_file():
            return {}
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata()
                fingerprint, kept = json.loads(metadata["fingerprint"]), json.loads(metadata["kept"])
                if differences := _differences(fingerprint, self._fingerprint):
                    logger.warning("%s: not resumed, it is of another run: %s; starting anew", self.path, differences)
                    return {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s: not resumed, it cannot be read (%s); starting anew", self.path, error)
            return {}
        for part, resumable in parts.items():
            mine = {name.partition("/")[2]: t for name, t in tensors.items() if name.partition("/")[0] == part}
            resumable.restore(mine, kept["parts"][part])
        facts: dict[str, Any] = kept["facts"]
        return facts

    def remove(self) -> None:
        """The run is complete: there is nothing to resume."""
        self.path.unlink(missing_ok=True)


def training_fingerprint(params: Params, inputs: Mapping[str, Path], *, device: str, processes: int) -> dict[str, Any]:
    """All that the numbers of a training depend on: parameters, hashes of its inputs, kind and count of devices."""
    chosen = {
        key: value
        for key, value in params.flattened().items()
        if key.partition(".")[0] in _SECTIONS and key not in _WITHOUT_EFFECT
    }
    return chosen | {name: content_digest(path) for name, path in inputs.items()} | {device: processes}


def _differences(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first keys that differ, with both values; empty where none does."""
    keys = [key for key in sorted({*kept, *wanted}) if kept.get(key) != wanted.get(key)]
    said = [f"{key} was {kept.get(key)}, is {wanted.get(key)}" for key in keys[:_NAMED_DIFFERENCES]]
    return ", ".join([*said, f"and {len(keys) - len(said)} more"] if len(keys) > len(said) else said)
