"""The state of an interrupted training run, in one file that is whole or not there.

Tensors are safetensors, the rest is JSON in the file's metadata: nothing is pickled. DVC deletes a stage's outputs
before it runs the stage, so the file lies outside them.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lunaops.disk import write_whole
from lunaops.params import Params
from lunaops.provenance import content_digest

logger = logging.getLogger(__name__)

_FORMAT = 2  # raise it when a part keeps other tensors or facts than before
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
        self._fingerprint = json.loads(json.dumps({"format of the state": _FORMAT, **fingerprint}))

    def write(self, parts: Mapping[str, Resumable], facts: Mapping[str, Any]) -> None:
        """Replace the file, all at once, by the state of the parts and `facts`."""
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().contiguous()
            for part, resumable in parts.items()
            for name, tensor in resumable.tensors().items()
        }
        kept = {"parts": {part: resumable.facts() for part, resumable in parts.items()}, "facts": dict(facts)}
        metadata = {"fingerprint": json.dumps(self._fingerprint), "kept": json.dumps(kept)}
        write_whole(self.path, save(tensors, metadata | {"digest": _digest(tensors, metadata)}))

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
                if _digest(tensors, metadata) != metadata["digest"]:
                    raise ValueError("it is damaged")
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


def training_fingerprint(params: Params, inputs: Mapping[str, Path], *, device: str) -> dict[str, Any]:
    """All that the numbers of a training depend on: parameters, hashes of its inputs, kind of device.

    Not the number of processes, which changes their last digits alone: a machine that is lost does not end a run.
    """
    chosen = {
        key: value
        for key, value in params.flattened().items()
        if key.partition(".")[0] in _SECTIONS and key not in _WITHOUT_EFFECT
    }
    return chosen | {name: content_digest(path) for name, path in inputs.items()} | {"device": device}


def _digest(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of every name and bit."""
    said = metadata["fingerprint"] + metadata["kept"]
    return xxhash.xxh3_128_hexdigest(said.encode() + save(tensors))


def _differences(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first keys that differ, with both values; empty where none does."""
    keys = [key for key in sorted({*kept, *wanted}) if kept.get(key) != wanted.get(key)]
    said = [f"{key} was {kept.get(key)}, is {wanted.get(key)}" for key in keys[:_NAMED_DIFFERENCES]]
    return ", ".join([*said, f"and {len(keys) - len(said)} more"] if len(keys) > len(said) else said)
