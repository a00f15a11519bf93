"""The commands that a person types: `python -m lunaops --help`."""

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from lunaops import crop_commands, tracking_sync
from lunaops.ci_command import ci_report
from lunaops.cohort import count_splits
from lunaops.command import run_app
from lunaops.crossval_command import crossval
from lunaops.destination import check_destination
from lunaops.errors import InputError
from lunaops.froc_command import froc
from lunaops.geometry import xyz_from_irc
from lunaops.lineage_commands import lineage, reproduce
from lunaops.model_commands import import_weights, show_augmented
from lunaops.registry_command import promote
from lunaops.tables import XYZ, grid_of, read_table

WHOLE_RANGE = (-32768, 32767)  # a picture has a window of its own

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
for command in (froc, import_weights, show_augmented, crossval, ci_report, lineage, reproduce, promote):
    app.command()(command)
app.add_typer(crop_commands.app, name="cache")
Data = Annotated[Path, typer.Option(help="The folder of the tables that the stages write.")]


@app.command()
def show(
    series_uid: Annotated[str, typer.Argument(help="The scan: its series id, or how the id ends.")],
    candidate: Annotated[int | None, typer.Option(help="A candidate_id; else the scan's largest nodule.")] = None,
    out: Annotated[Path | None, typer.Option(help="The picture to write; else SERIES_UID[-CANDIDATE].png.")] = None,
    data: Data = Path("data"),
) -> None:
    """Draw a scan: three planes through a candidate and a row of transverse slices, head up."""
    from lunaops import (  # matplotlib and SimpleITK: a second that the other commands need not wait
        figures,
        scan_figures,
    )
    from lunaops.ct import read_ct

    scan = _find_scan(read_table(data / "scans.csv"), series_uid)
    name = scan["series_uid"] if candidate is None else f"{scan['series_uid']}-{candidate}"
    path = out or Path(f"{name}.png")
    check_destination("--out", path, suffix=".png")
    candidates = read_table(data / "candidates.parquet")
    candidates = candidates[candidates["series_uid"] == scan["series_uid"]]
    if candidate is not None and candidate not in candidates["candidate_id"].to_numpy():
        known = ", ".join(map(str, candidates["candidate_id"].head(10))) or "none"
        raise InputError(f"--candidate {candidate} is not one of scan {scan['series_uid']}; its first are {known}")
    grid = grid_of(scan)
    middle = xyz_from_irc([n // 2 for n in grid.shape_irc], grid)
    chosen = candidates if candidate is None else candidates[candidates["candidate_id"] == candidate]
    row = chosen.iloc[0] if len(chosen) else pd.Series({**dict(zip(XYZ, middle, strict=True)), "diameter_mm": 0.0})
    figure = scan_figures.scan_figure(
        read_ct(data / "raw" / scan["path"], WHOLE_RANGE).hu,
        grid,
        row[XYZ].to_numpy(float),
        diameter_mm=row["diameter_mm"],
        title=_title(scan, row),
    )
    figures.write_figure(figure, path)
    typer.echo(path)


@app.command()
def summary(data: Data = Path("data")) -> None:
    """Count scans, nodules and candidates of each split, and list every 100th positive's diameter, largest first."""
    candidates = read_table(data / "candidates.parquet")
    counts = count_splits(read_table(data / "scans.csv"), read_table(data / "nodules.parquet"), candidates)
    counts.loc["all"] = counts.sum()
    typer.echo(counts.to_string())
    positives = candidates[candidates["is_nodule"]].sort_values("diameter_mm", ascending=False)
    typer.echo("\nevery 100th positive, largest first (0.0: no annotation near enough)")
    for place in range(0, len(positives), 100):
        row = positives.iloc[place]
        typer.echo(f"{place:6d}  {row['diameter_mm']:5.1f} mm  {row['series_uid']}")


@app.command()
def metrics(reports: Annotated[Path, typer.Option(help="The folder of metrics.json.")] = Path("reports")) -> None:
    """Print what the last evaluation found, a line a number."""
    path = reports / "metrics.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro`")
    for split, numbers in json.loads(path.read_text()).items():
        for name, value in numbers.items():
            said = "undefined" if value is None else value if isinstance(value, str) else f"{value:10.4g}"
            typer.echo(f"{split}  {name:26s} {said}")


@app.command()
def sync_tracking() -> None:
    """Deliver to MLflow what runs logged while it was not there; MLFLOW_TRACKING_URI says where it is."""
    tracking_sync.sync_tracking(Path())


def _find_scan(scans: pd.DataFrame, series_uid: str) -> pd.Series:
    exact = scans[scans["series_uid"] == series_uid]
    found = exact if len(exact) else scans[scans["series_uid"].str.endswith(series_uid)]
    if len(found) != 1:
        some = ", ".join(found["series_uid"].head(3)) if len(found) else f"{len(scans)} others are, in scans.csv"
        raise InputError(f"series {series_uid}: {len(found) or 'no'} scan on disk ends so: {some}")
    return found.iloc[0]


def _title(scan: pd.Series, row: pd.Series) -> str:
    kind = "" if "is_nodule" not in row else " nodule" if row["is_nodule"] else " non-nodule"
    what = f"candidate {row['candidate_id']},{kind}" if "candidate_id" in row else "no candidate: the middle"
    size = f", {row['diameter_mm']:.1f} mm" if row["diameter_mm"] > 0 else ""
    place = ", ".join(f"{row[axis]:.1f}" for axis in XYZ)
    return f"{scan['series_uid']}\n{what}{size} at ({place}) mm"


if __name__ == "__main__":
    run_app(app)
