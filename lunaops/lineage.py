"""Where a tracked run comes from, and what came of it."""

from dataclasses import dataclass
from typing import Any

from lunaops.tracking_query import ModelVersion, RunStore, TrackedRun


@dataclass(frozen=True)
class Lineage:
    """A run with its relatives; `parent` is None if it has none in this store."""

    run: TrackedRun
    parent: TrackedRun | None
    children: list[TrackedRun]
    versions: list[ModelVersion]


def lineage_of(run: TrackedRun, store: RunStore) -> Lineage:
    """Ask the store for a run's parent, its children and the registered versions of its models."""
    parent = store.get(run.parent_id) if run.parent_id and store.has(run.parent_id) else None
    versions = [version for model_id in run.model_ids for version in store.versions(model_id)]
    return Lineage(run, parent, store.children(run.run_id), versions)


def as_json(lineage: Lineage) -> dict[str, Any]:
    """The lineage as a tree of plain values; params and metrics by their full names."""
    run = lineage.run
    return {
        "run_id": run.run_id,
        "name": run.name,
        "kind": run.kind,
        "status": run.status,
        "experiment": run.experiment,
        "commit": run.commit,
        "dirty": run.is_dirty,
        "device": run.tags.get("device"),
        "dvc": _tags(run, "dvc."),
        "data": run.datasets,
        "parent": {"run_id": run.parent_id, "name": lineage.parent.name if lineage.parent else None},
        "children": [{"run_id": child.run_id, "name": child.name} for child in lineage.children],
        "reproduces": run.tags.get("lunaops.reproduces"),
        "models": list(run.model_ids),
        "registered": [
            {"name": each.name, "version": each.version, "model_id": each.model_id, "aliases": list(each.aliases)}
            for each in lineage.versions
        ],
        "versions": _tags(run, "version."),
        "params": dict(sorted(run.params.items())),
        "metrics": dict(sorted(run.metrics.items())),
    }


def as_text(lineage: Lineage) -> str:
    """The lineage for people, a fact a line: what it is about, then the fact."""
    facts = as_json(lineage)
    parent = facts["parent"]
    known = f"{parent['name']}" if parent["name"] else "not in this store"
    return "\n".join(
        [
            _line("run", f"{facts['run_id']}  {facts['name']}"),
            _line("", f"{facts['kind'] or 'not of lunaops'}, {facts['status']}, experiment {facts['experiment']}"),
            _line("commit", _commit(lineage.run)),
            *([_line("reproduces", facts["reproduces"])] if facts["reproduces"] else []),
            *([_line("device", facts["device"])] if facts["device"] else []),
            _line("parent", f"{parent['run_id']}  {known}" if parent["run_id"] else "none"),
            *_lines("child", [f"{child['run_id']}  {child['name']}" for child in facts["children"]]),
            *_lines("model", facts["models"]),
            *_lines("registered", [_version(each) for each in lineage.versions]),
            *_lines("data", [f"{name}: {_counts(counts)}" for name, counts in facts["data"].items()]),
            *_lines("hash (DVC)", [f"{name}  {digest}" for name, digest in facts["dvc"].items()]),
            *_lines("version", [f"{name} {version}" for name, version in facts["versions"].items()]),
            *_lines("param", [f"{name}  {value}" for name, value in facts["params"].items()]),
        ]
    )


def _line(label: str, fact: str) -> str:
    return f"{label:12s}{fact}"


def _lines(label: str, facts: list[str]) -> list[str]:
    """The label before the first fact only; 'none' where there is no fact."""
    return [_line(label if place == 0 else "", fact) for place, fact in enumerate(facts or ["none"])]


def _commit(run: TrackedRun) -> str:
    if run.commit is None:
        return "none: it ran outside a git repository"
    return f"{run.commit}, {'with uncommitted changes of code' if run.is_dirty else 'clean'}"


def _version(version: ModelVersion) -> str:
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    return f"{version.name} version {version.version}{aliases}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.removeprefix('num_').replace('_', ' ')}" for name, count in counts.items())


def _tags(run: TrackedRun, prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in sorted(run.tags.items()) if key.startswith(prefix)}
