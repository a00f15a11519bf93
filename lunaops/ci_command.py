"""The command `python -m lunaops ci-report`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lunaops.checkout import git
from lunaops.ci_plan import make_plan, run_plan
from lunaops.ci_report import as_markdown, failed_markdown, find_base, judge, read_changes, workflow_link
from lunaops.destination import check_destination
from lunaops.errors import InputError
from lunaops.params import read_params
from lunaops.task import TASKS
from lunaops.tracking_query import RunStore


def ci_report(
    base: Annotated[str, typer.Option(help="The branch or commit to compare with; taken is where HEAD left it.")] = (
        "origin/main"
    ),
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what is to run, 'evaluate' or 'pipeline', and why to stderr.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The file of the comment; else it is printed.")] = None,
) -> None:
    """Re-run what a change affects, say what it did as a comment in Markdown, and fail if the CPM dropped.

    Exit code 1 if the gate in section ci of params.yaml fails, after the comment is written. Where DVC's remote lacks
    data, or none is configured, the data must be here.
    """
    if out is not None:
        check_destination("--out", out)
    params = read_params(Path("params.yaml"))
    split = params.evaluate.split
    planned = make_plan()
    if plan:
        sys.stderr.write(f"{planned.reason}\n")
        typer.echo(planned.kind)
        return
    base_commit, head = find_base(base), git("rev-parse", "HEAD").strip()
    code = run_plan(planned)
    if code:
        _write(failed_markdown(code, planned, base=base_commit, head=head), out)
        raise InputError(f"gate failed: `dvc repro {' '.join(planned.repro_arguments)}` failed (exit code {code})")
    changes = read_changes(base_commit, split=split)
    verdict = judge(changes, split=split, max_cpm_drop=params.ci.max_cpm_drop, task=TASKS[params.model.task])
    links = [_tracking_link(head), *workflow_link()]
    _write(as_markdown(changes, verdict, planned, split=split, head=head, links=links), out)
    if not verdict.is_passed:
        raise InputError(f"gate failed: {verdict.reason}")
    sys.stderr.write(f"gate passed: {verdict.reason}\n")


def _write(comment: str, out: Path | None) -> None:
    if out is None:
        typer.echo(comment)
    else:
        out.write_text(comment, encoding="utf-8")


def _tracking_link(commit: str) -> str:
    """The evaluation's page in MLflow and its training's, or why there is none: that shall not fail a pull request."""
    if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        return "MLflow: no link, as MLFLOW_TRACKING_URI names no server."
    try:
        store = RunStore()
        run = store.newest("evaluate", commit)
        if run is None:
            return "MLflow: no evaluation of this commit was tracked."
        parent = store.get(run.parent_id) if run.parent_id and store.has(run.parent_id) else None
        training = f", of the training [{parent.name}]({store.url_of(parent)})" if parent else ""
        return f"MLflow: [{run.name}]({store.url_of(run)}){training}"
    except InputError as error:
        return f"MLflow: no link: {error}"
