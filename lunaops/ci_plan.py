"""What a change makes DVC run again: evaluate alone, or stages before it too."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lunaops.checkout import dvc, git, has_remote, run_dvc

EVALUATE = "evaluate"
PIPELINE = "pipeline"
_NAMED = 3  # so many stages, and changes of each, are written out in the reason

_Entries = list[str | dict[str, dict[str, str | dict[str, str]]]]  # of one stage, in what `dvc status --json` prints


@dataclass(frozen=True)
class Plan:
    """`kind` is 'evaluate' or 'pipeline'; `stale` is what changed by stage, in DVC's order.

    What changed is a file of code, a parameter or a section of params.yaml, or 'its command'. `has_remote` says whether
    data can be pulled; `missing` are the inputs of evaluate that are not here.
    """

    stale: dict[str, list[str]]
    has_remote: bool
    missing: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The pipeline, if a stage before evaluate would not give what dvc.lock holds."""
        return PIPELINE if set(self.stale) - {EVALUATE} else EVALUATE

    @property
    def repro_arguments(self) -> list[str]:
        """What `dvc repro` is told."""
        pull = ["--pull"] if self.has_remote else []  # without a remote DVC would fail
        return [*pull, "--single-item", EVALUATE] if self.kind == EVALUATE else pull

    @property
    def reason(self) -> str:
        """Why, in one line."""
        before = {stage: changes for stage, changes in self.stale.items() if stage != EVALUATE}
        if not before:
            return "no stage before evaluate is affected"
        return _first("; ", [f"{stage}: {_first(', ', changes)}" for stage, changes in before.items()])


def make_plan(folder: Path = Path()) -> Plan:
    """Compare parameters, code and commands of every stage with dvc.lock, as `dvc status` does.

    Data that are not here do not count: dvc.lock says which they are, and evaluate's are pulled. So a clone without
    data plans what a full checkout does, and a change whose results are committed (dvc.lock, with the data pushed)
    plans evaluate.
    """
    with ThreadPoolExecutor() as threads:  # at once: most of DVC's time is its start
        knows_remote = threads.submit(has_remote, folder)
        status = json.loads(dvc("status", "--json", folder=folder))
    tracked = set(git("ls-files", folder=folder).splitlines())
    stale = {stage: _changes(entries, tracked) for stage, entries in status.items()}
    return Plan(
        {stage: changes for stage, changes in stale.items() if changes},
        knows_remote.result(),
        tuple(path for path, change in _changed_deps(status.get(EVALUATE, [])) if change == "deleted"),
    )


def run_plan(plan: Plan, folder: Path = Path()) -> int:
    """Run it; returns the exit code of `dvc repro`.

    What evaluate lacks is pulled at once before: `dvc repro --pull` pulls one file after another, two seconds each.
    """
    if plan.kind == EVALUATE and plan.has_remote and plan.missing:
        run_dvc("pull", "--quiet", *plan.missing, folder=folder)  # where it fails, so does what follows
    return run_dvc("repro", *plan.repro_arguments, folder=folder)


def _first(separator: str, words: list[str]) -> str:
    """The first few, and how many more: a lost dvc.lock makes stale every file of every stage."""
    more = [f"{len(words) - _NAMED} more"] if len(words) > _NAMED else []
    return separator.join([*words[:_NAMED], *more])


def _changes(entries: _Entries, tracked: set[str]) -> list[str]:
    """The changes of one stage, from what `dvc status` says of it: params, tracked files, its command."""
    changes = ["its command"] if "changed command" in entries else []
    for path, change in _changed_deps(entries):
        if isinstance(change, dict):
            changes += list(change)
        elif path in tracked:
            changes.append(path)
    return changes


def _changed_deps(entries: _Entries) -> Iterator[tuple[str, str | dict[str, str]]]:
    for entry in entries:
        if isinstance(entry, dict):
            yield from entry.get("changed deps", {}).items()
