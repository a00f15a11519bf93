"""The commands `python -m lunaops lineage` and `reproduce`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lunaops import lineage as lineages
from lunaops import reproduction
from lunaops.tracking_query import RunStore

RunId = Annotated[str, typer.Argument(help="A run of MLflow: its id, how the id begins, or its name.")]


def lineage(
    run_id: RunId,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of lines.")] = False,
) -> None:
    """Print where a run comes from and what came of it: commit, params, data, parent, children, registered models."""
    store = RunStore()
    found = lineages.lineage_of(store.find(run_id), store)
    typer.echo(json.dumps(lineages.as_json(found), indent=1) if as_json else lineages.as_text(found))


def reproduce(
    run_id: RunId,
    into: Annotated[Path | None, typer.Option(help="The folder to make; else one beside the project.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Differences up to this count as equal.")] = 0.0,
) -> None:
    """Train, predict and evaluate again from a run's commit, params and data, and compare the metrics.

    Exit code 1 if they are not equal. The worktree stays; `git worktree remove --force` removes it.
    """
    store = RunStore()
    run = store.find(run_id)
    project = Path.cwd()
    folder = into or project.parent / f"{project.name}-{run.run_id[:8]}"
    comparisons = reproduction.reproduce(run, store, folder)
    typer.echo(reproduction.as_text(comparisons, tolerance))
    typer.echo(f"worktree: {folder}")
    if not all(each.is_equal(tolerance) for each in comparisons):
        raise typer.Exit(1)
