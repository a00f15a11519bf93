"""What a run is called and where it comes from, in words that compare."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lunaops import provenance

Kind = Literal["train", "evaluate"]

_NOT_IN_THE_NAME = {  # sections whose changes cannot have changed the result of this kind of run
    "train": ("predict", "evaluate", "ci"),
    "evaluate": ("fetch", "phantom", "merge", "split", "crop", "model", "train", "augment", "ci"),
}
_NAMED_CHANGES = 3
_OF_A_MACHINE = (
    "fetch.directory",
    "fetch.labels_directory",
    "evaluate.compare_with",
)  # a path says nothing to whoever compares


def run_name(kind: Kind, params: Mapping[str, Any], *, parent: str | None) -> str:
    """What tells this run from its neighbours, the telling part first: lists cut names off at their end.

    'learning_rate=0.01 3b9faae': what was changed since the commit, and the commit; 'train 3b9faae': nothing was.
    In `dvc exp run`, the experiment's name takes the commit's place; an evaluation ends with its `parent`'s name.
    """
    changes = [
        f"{key.rpartition('.')[2]}={value}"
        for key, value in provenance.changed_params(params).items()
        if key.partition(".")[0] not in _NOT_IN_THE_NAME[kind] and key not in _OF_A_MACHINE
    ]
    if len(changes) > _NAMED_CHANGES:
        changes[_NAMED_CHANGES:] = [f"+{len(changes) - _NAMED_CHANGES}"]
    if parent:
        return " ".join([kind, *changes, parent])
    origin = os.environ.get("DVC_EXP_NAME") or (provenance.git_commit() or "")[:7]
    return " ".join([*(changes or [kind]), origin]).strip()


def provenance_tags(kind: Kind, inputs: Mapping[str, Path]) -> dict[str, str]:
    """Commit, library versions and the hashes of `inputs`, as tags of a run."""
    tags = {
        "lunaops.kind": kind,
        "mlflow.source.name": f"stages/{kind}.py",  # MLflow's own choice would be a path of this machine
        "mlflow.source.type": "LOCAL",
    }
    commit, is_dirty = provenance.git_commit(), provenance.is_dirty()
    if commit is not None:
        tags |= {"mlflow.source.git.commit": commit, "git.dirty": str(is_dirty).lower()}
    tags |= {f"version.{library}": version for library, version in provenance.library_versions().items()}
    return tags | {f"dvc.{name}": provenance.content_digest(path) for name, path in inputs.items()}
