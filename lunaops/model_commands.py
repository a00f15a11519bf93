"""Commands about the model and what it is shown. They need torch, which is imported when one is called."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from lunaops.crop_store import cache_folder
from lunaops.crops import CropReader, read_manifest
from lunaops.ct import HuArray
from lunaops.destination import check_destination
from lunaops.errors import InputError
from lunaops.geometry import Grid
from lunaops.params import read_params
from lunaops.tables import grid_of, read_table

if TYPE_CHECKING:
    from lunaops.augment import Drawn


def import_weights(
    file: Annotated[Path, typer.Argument(help="A torch file or a .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="The folder to write: weights.safetensors and model.json.")],
    crop_size: Annotated[
        tuple[int, int, int],
        typer.Option(min=16, max=512, help="Slices, rows, columns of the crops it was trained on."),
    ] = (32, 48, 48),
) -> None:
    """Turn published weights of this architecture into a model folder, as train writes them."""
    from lunaops.model import write_model
    from lunaops.provenance import content_digest
    from lunaops.published import read_published

    model = read_published(file, crop_size)
    write_model(model, out, {"imported": {"file": file.name, "md5": content_digest(file)}})
    typer.echo(f"{out}: {model.channels} channels, crops of {' x '.join(map(str, crop_size))} voxels")


def show_augmented(
    candidate: Annotated[int | None, typer.Option(help="A candidate_id; else the largest nodule.")] = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("augmented.png"),
    num: Annotated[int, typer.Option(min=1, help="So many variations.")] = 7,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws others.")] = 0,
    data: Annotated[Path, typer.Option(help="The folder of the tables that the stages write.")] = Path("data"),
    params_file: Annotated[Path, typer.Option(help="Whose section augment is shown.")] = Path("params.yaml"),
) -> None:
    """Draw a candidate's crop as it is, and as the section augment of params.yaml varies it for training."""
    import torch

    from lunaops.augment import apply_augmentation, draw_augmentation

    check_destination("--out", out, suffix=".png")
    crop, pad_hu, grid, candidate = _find_crop(data, candidate)
    drawn = draw_augmentation(num, read_params(params_file).augment, torch.Generator().manual_seed(seed))
    varied = apply_augmentation(
        torch.from_numpy(crop).repeat(num, 1, 1, 1, 1),
        drawn,
        torch.tensor(grid.spacing_xyz[::-1]).expand(num, 3),
        pad_hu=pad_hu,
    )
    from lunaops import figures, scan_figures  # of all commands two draw

    pictures = [scan_figures.GalleryCrop(_planes(crop), grid, "as it is")]
    for place, hu in enumerate(varied[:, 0].round().short().numpy()):
        pictures.append(scan_figures.GalleryCrop(_planes(hu), grid, _caption(drawn.rows(slice(place, place + 1)))))
    title = f"candidate {candidate} as training may see it; the letters are right for the first picture"
    figures.write_figure(scan_figures.gallery_figure(pictures, title=title), out)
    typer.echo(out)


def _find_crop(data: Path, candidate: int | None) -> tuple[HuArray, int, Grid, int]:
    """The crop of a candidate, else of the largest nodule: its voxels, the HU around it, the scan's grid, its id."""
    table, scans = read_table(data / "candidates.parquet"), read_table(data / "scans.csv")
    chosen = table[table["candidate_id"] == candidate] if candidate is not None else table.nlargest(1, "diameter_mm")
    if chosen.empty:
        raise InputError(f"--candidate {candidate} is not in {data / 'candidates.parquet'}, which has {len(table)}")
    row = chosen.iloc[0]
    crops = CropReader(read_manifest(data / "crops.json"), table, data / "raw", cache_folder())
    of_scan = table[table["series_uid"] == row["series_uid"]]
    crop = crops.crop(row["series_uid"], int((of_scan["candidate_id"] == row["candidate_id"]).argmax()))
    grid = grid_of(scans[scans["series_uid"] == row["series_uid"]].iloc[0])
    return crop.copy(), crops.manifest.geometry.pad_hu, grid, int(row["candidate_id"])


def _planes(hu: HuArray) -> dict[str, HuArray]:
    slices, rows, columns = (size // 2 for size in hu.shape)
    return {"transverse": hu[slices], "coronal": hu[:, rows], "sagittal": hu[:, :, columns]}


def _caption(drawn: "Drawn") -> str:
    """What was drawn for one crop, in words; what is off is left out."""
    axes = [axis for axis, flip in zip(("slices", "rows", "columns"), drawn.flip[0], strict=True) if flip]
    degrees, scale, offset_mm = drawn.degrees.item(), drawn.scale.item(), drawn.offset_mm[0].tolist()
    parts = {
        f"mirrored: {', '.join(axes)}": axes,
        f"turned {degrees:.0f}°": degrees,
        f"× {scale:.2f}": scale != 1,
        f"moved {', '.join(f'{mm:.1f}' for mm in offset_mm)} mm": any(offset_mm),
        f"noise {drawn.noise_hu.item():g} HU": drawn.noise_hu.item(),
    }
    return fill("; ".join(part for part, is_on in parts.items() if is_on) or "nothing drawn", 60)
