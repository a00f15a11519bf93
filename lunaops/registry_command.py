"""The command `python -m lunaops promote`."""

from pathlib import Path
from typing import Annotated

import typer

from lunaops.comparison import NAMES
from lunaops.errors import InputError
from lunaops.params import read_params
from lunaops.promotion import compare_evidence, objection, read_evidence
from lunaops.tracking_query import RunStore
from lunaops.tracking_registry import CHALLENGER, CHAMPION


def promote(
    name: Annotated[str, typer.Argument(help="The registered model, as evaluate.register names it.")],
    margin: Annotated[float, typer.Option(min=0, help="The CPM (ROC AUC, of malignancy) may be so much lower.")] = 0.0,
) -> None:
    """Make the challenger of a registered model its champion, if its CPM is not lower by more than the margin.

    The rule: the lower end of the 95 % interval of the difference in CPM (challenger less champion, paired draws of the
    scans both were evaluated on, by section evaluate of params.yaml) is not below -MARGIN. Else exit code 1.
    """
    store = RunStore()
    challenger, champion = store.version_of(name, CHALLENGER), store.version_of(name, CHAMPION)
    if challenger is None:
        raise InputError(
            f"{name} has no {CHALLENGER}: set evaluate.register: {name} and run `dvc repro evaluate`; if MLflow was "
            "away then, run `python -m lunaops sync-tracking`"
        )
    said = f"{name}: version {challenger.version} is {CHAMPION}"
    if champion is None:
        store.set_alias(CHAMPION, challenger)
        typer.echo(f"{said}: there was none before, so nothing was compared")
        return
    if champion.version == challenger.version:
        typer.echo(f"{said} already")
        return
    params = read_params(Path("params.yaml")).evaluate
    ours, theirs = read_evidence(challenger, CHALLENGER), read_evidence(champion, CHAMPION)
    difference = compare_evidence(ours, theirs, params)
    metric = NAMES[ours.reference.task.telling]
    typer.echo(f"{name}: version {challenger.version} against {champion.version}: {difference.sentence(metric)}")
    refused = objection(difference, margin)
    if refused is not None:
        raise InputError(f"{name}: version {champion.version} stays {CHAMPION}: {refused}")
    store.set_alias(CHAMPION, challenger)
    typer.echo(f"{said}: the lower end of the interval is not below {0 - margin:g}")
