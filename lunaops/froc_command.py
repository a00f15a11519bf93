"""The command `python -m lunaops froc`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lunaops.destination import check_destination
from lunaops.errors import InputError
from lunaops.submission import as_json, as_text, score_submission


def froc(
    submission: Annotated[Path, typer.Option(help="The marks: seriesuid,coordX,coordY,coordZ,probability.")],
    annotations: Annotated[Path, typer.Option(help="The nodules: seriesuid,coordX,coordY,coordZ,diameter_mm.")],
    excluded: Annotated[Path, typer.Option(help="Findings that count neither way; columns as of the nodules.")],
    seriesuids: Annotated[Path, typer.Option(help="The scans: a series id a line, no header.")],
    max_marks: Annotated[
        int | None, typer.Option(min=1, help="Keep so many marks a scan (LUNA16's detection track: 100).")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws of scans for 95 % intervals (LUNA16: 1000).")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of these draws.")] = 1,
    unknown_diameter: Annotated[
        float, typer.Option(min=0, help="Of a finding whose diameter is negative [mm] (LUNA16: 10).")
    ] = 10.0,
    json_: Annotated[Path | None, typer.Option("--json", help="The file of numbers to write.")] = None,
    plot: Annotated[Path | None, typer.Option(help="The picture of the curve to write, a PNG.")] = None,
) -> None:
    """Score any submission by the rules of LUNA16's evaluation script: FROC, CPM, their 95 % intervals."""
    inputs = {"submission": submission, "annotations": annotations, "excluded": excluded, "seriesuids": seriesuids}
    for option, path in inputs.items():
        if not path.is_file():
            raise InputError(f"--{option} {path}: no such file")
    if json_ is not None:
        check_destination("--json", json_)
    if plot is not None:
        check_destination("--plot", plot, suffix=".png")
    result = score_submission(
        **inputs, unknown_diameter_mm=unknown_diameter, max_marks_per_scan=max_marks, num_draws=bootstrap, seed=seed
    )
    if json_ is not None:
        json_.write_text(json.dumps(as_json(result), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from lunaops import figures

        figures.write_figure(figures.froc_figure(result.froc, result.intervals, title=submission.stem), plot)
    typer.echo(as_text(result))
