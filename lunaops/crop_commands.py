"""The crop cache seen by a person: `python -m lunaops cache --help`."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

from lunaops.cores import num_cores
from lunaops.crop_block import Entry
from lunaops.crop_store import CropCache, cache_folder
from lunaops.crops import read_manifest
from lunaops.errors import InputError
from lunaops.progress import progress

app = typer.Typer(
    no_args_is_help=True,
    help="Look after the crop cache. Other clones and projects of this user may share it; LUNAOPS_CACHE_DIR names it.",
)
Data = Annotated[Path, typer.Option(help="The folder of crops.json, the manifest of this project.")]


@app.command()
def stats(data: Data = Path("data")) -> None:
    """Say where the cache is, what it holds, and how much of that this project's manifest names."""
    with CropCache(cache_folder()) as cache:
        entries = {entry.key: entry for entry in cache.entries()}
    typer.echo(f"{cache_folder()}\n{_amount(list(entries.values()))}")
    if not (data / "crops.json").is_file():
        typer.echo(f"{data / 'crops.json'} is not there: this project names none of them")
        return
    named = _named(data)
    here = [entries[key] for key in named if key in entries]
    typer.echo(f"of this project: {_amount(here)}; its manifest names {len(named)} blocks")


@app.command()
def verify(
    drop: Annotated[bool, typer.Option("--drop", help="Remove what is damaged; the next build cuts it again.")] = False,
) -> None:
    """Read every crop and hold it against its digest, on all cores; exit code 1 if any is damaged.

    A damaged block needs no help: whoever reads it cuts it again. With --drop that is done by the next build.
    """
    with CropCache(cache_folder()) as cache:
        entries = cache.entries()
        unnamed = cache.sweep() if entries else cache.unnamed()
        damaged = [(entry, count) for entry, count in _verified(entries) if count]
        for entry, count in damaged:
            typer.echo(f"damaged: {entry.file}: {count} of {len(entry.digests)} crops; {entry.key}")
        if drop:
            cache.remove(entry.key for entry, _ in damaged)
    removed = ", removed" if drop and damaged else ""
    typer.echo(f"{_amount(entries)} read in {cache_folder()}: {len(damaged)} damaged{removed}")
    if unnamed.files and not entries:
        raise InputError(
            f"{cache_folder()}: the index is lost, or the first build was killed: there are {unnamed}; "
            "`cache clear --all` or the next build gives the room back"
        )
    if unnamed.files:
        typer.echo(f"removed {unnamed}: a build was killed, or their entries were damaged")
    if damaged:
        again = "run `dvc repro -f build-cache`" if drop else "they are cut again when they are read; or add --drop"
        raise InputError(f"{len(damaged)} of {len(entries)} blocks are damaged: {again}")


@app.command()
def clear(
    everything: Annotated[bool, typer.Option("--all", help="Remove every entry, this project's too.")] = False,
    data: Data = Path("data"),
) -> None:
    """Remove the entries that this project's manifest does not name, without asking.

    Other projects that share the cache lose theirs, and cut them again when they next need them.
    """
    kept = set() if everything else _named(data)
    with CropCache(cache_folder()) as cache:
        removed = [entry for entry in cache.entries() if entry.key not in kept]
        unnamed = cache.unnamed()
        if everything:
            cache.clear()
        else:
            cache.remove(entry.key for entry in removed)
            cache.sweep()
    typer.echo(f"removed {_amount(removed)} from {cache_folder()}")
    if everything and unnamed.files:
        typer.echo(f"and {unnamed}")


def _verified(entries: list[Entry]) -> list[tuple[Entry, int]]:
    """Each entry with the number of its crops that are damaged."""
    if not entries:
        return []
    with ProcessPoolExecutor(min(num_cores(), len(entries)), mp_context=get_context("spawn")) as pool:
        counts = pool.map(Entry.num_damaged, entries, chunksize=4)
        return list(zip(entries, progress(counts, total=len(entries), label="verify", unit="blocks"), strict=True))


def _named(data: Path) -> set[str]:
    return {block.key for block in read_manifest(data / "crops.json").blocks}


def _amount(entries: list[Entry]) -> str:
    crops, size = sum(len(entry.digests) for entry in entries), sum(entry.size for entry in entries)
    return f"{len(entries)} blocks, {crops} crops, {size} bytes ({size / 1e9:.2f} GB)"
