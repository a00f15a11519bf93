"""A run's parameters, which MLflow keeps as text, written back into params.yaml."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from lunaops.errors import InputError

_CUT = "…"  # how tracking ends a value that is longer than MLflow takes


def restore_params(path: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """Set the params of a run ({'train.seed': '1', ...}) in a params.yaml; returns those that differed from it.

    The file must be that of the run's commit: a value that is text in it stays text. Comments stay. Raises
    InputError if the file lacks a parameter.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000  # lines stay whole
    tree = yaml.load(path.read_text(encoding="utf-8"))
    changed = {}
    for key, text in texts.items():
        section, _, name = key.partition(".")
        if name not in tree.get(section, {}):
            raise InputError(f"{path}: has no parameter {key}, which the run has; its commit is not what ran")
        value = _value(text, tree[section][name])
        if value != tree[section][name]:
            tree[section][name] = changed[key] = value
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)
    return changed


def check_whole(texts: Mapping[str, str]) -> None:
    """Raise InputError if MLflow holds less than a whole value."""
    for key, text in texts.items():
        if text.endswith(_CUT):
            raise InputError(f"parameter {key} was cut when it was logged ({len(text)} characters): not restorable")


def _value(text: str, committed: Any) -> Any:
    """Tracking logs text as it is and all else as JSON, so '123' may be either: the committed value tells."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, str) or (isinstance(committed, str) and value is not None):
        return text
    return value
