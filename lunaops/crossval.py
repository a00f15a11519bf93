"""K-fold cross-validation: each fold is an experiment of DVC, and the predictions of all are pooled.

DVC decides what a fold still needs, as it does for `dvc repro`: a fold that is done is brought back from its cache, and
one that was interrupted goes on from its first stage that is not done. A matrix in dvc.yaml would have wanted every
stage, every table and every list of imports a second time, with the fold in each path.
"""

import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lunaops.errors import InputError
from lunaops.tables import read_table

logger = logging.getLogger(__name__)

POOLED = ("val", "test")  # of each fold; the models' own training candidates are in none


def experiment_of(fold: int) -> str:
    """The name of a fold in `dvc exp show`."""
    return f"fold-{fold}"


def fetch_subsets() -> None:
    """Bring the data up to date here, before any fold.

    Their outputs persist, so DVC keeps no cache of their runs, and every fold would fetch them again.
    """
    _dvc(["repro", "fetch-subsets"], "fetching the data")


def run_fold(fold: int) -> None:
    """Bring the pipeline up to date for a fold, in a copy of the project below .dvc/tmp; git's index stays.

    What is committed counts, and changes to files that git tracks. Raises InputError if a stage failed.
    """
    name = experiment_of(fold)
    unregistered = "evaluate.register=null"  # a fold's model is no challenger
    changes = ("split.strategy=k_fold", f"split.fold={fold}", unregistered)
    settings = [word for change in changes for word in ("--set-param", change)]
    logger.info("fold %d: experiment %s", fold, name)
    if name in _dvc(["exp", "list", "--name-only"], f"fold {fold}", quiet=True).split():
        _dvc(["exp", "remove", name], f"fold {fold}", quiet=True)  # `exp run --force` would run what is done, too
    _dvc(["exp", "run", "--temp", "--name", name, *settings], f"fold {fold}")


def fetch_outputs(fold: int, outputs: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Bring outputs of a fold that ran from DVC's cache into `folder`, a new one; their paths by name without suffix.

    What comes may be a hard link into the cache, and `dvc get --force` writes through one: over it, it would empty the
    cache's own file. So nothing is ever written over; InputError where the folder exists.
    """
    if folder.exists():
        raise InputError(f"fold {fold}: {folder} exists; give a new folder")
    folder.mkdir(parents=True)
    fetched = {output.stem: folder / output.name for output in outputs}
    for output in outputs:
        wanted = ["--rev", experiment_of(fold), "--out", str(folder / output.name)]
        _dvc(["get", ".", output.as_posix(), *wanted], f"fold {fold}: {output}", quiet=True)
    return fetched


def pool(folds: Sequence[Mapping[str, Path]]) -> dict[str, pd.DataFrame]:
    """The tables predictions, nodules, excluded and scans of all folds as if one model had scored all test subsets.

    A scan that tests in one fold and validates in another has a row for each. Nodules and excluded findings are the
    same in every fold. Raises InputError where two folds test the same scan.
    """
    tables = [{name: read_table(path) for name, path in fold.items() if path.suffix != ".npz"} for fold in folds]
    pooled = {name: tables[0][name] for name in ("nodules", "excluded")}
    for name in ("predictions", "scans"):
        rows = pd.concat([table[name] for table in tables], ignore_index=True)
        pooled[name] = rows[rows["split"].isin(POOLED)].reset_index(drop=True)
    scans = pooled["scans"]
    twice = scans[scans.duplicated(["series_uid", "split"])]
    if len(twice):
        raise InputError(
            f"{len(twice)} scans are in one split of two folds, the first {twice['series_uid'].iloc[0]}: "
            "the folds were not made of one division of the data; run them again"
        )
    return pooled


def _dvc(arguments: Sequence[str], doing: str, *, quiet: bool = False) -> str:
    """What dvc prints; where it is not quiet, it prints for itself."""
    try:
        done = subprocess.run(["dvc", *arguments], capture_output=quiet, text=True, check=False)
    except FileNotFoundError:
        raise InputError(f"{doing}: dvc is not on the PATH; activate the environment, or say `make crossval`") from None
    if done.returncode:
        lines = (done.stderr or "").strip().splitlines()
        raise InputError(f"{doing}: dvc {arguments[0]} failed" + (f": {lines[-1]}" if lines else "; see above"))
    return done.stdout or ""
