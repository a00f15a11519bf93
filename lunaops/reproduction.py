"""A tracked run made again from its commit, params and data, and compared."""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lunaops.checkout import dvc, git, has_remote, run_dvc
from lunaops.errors import InputError
from lunaops.provenance import content_digest, library_versions
from lunaops.restored_params import check_whole, restore_params
from lunaops.tracking_query import RunStore, TrackedRun

logger = logging.getLogger(__name__)

_INPUTS = {  # tag dvc.NAME -> file below data/; what is made before training
    "candidates": "candidates.parquet",
    "crops": "crops.json",
    "nodules": "nodules.parquet",
    "excluded": "excluded.parquet",
    "scans": "scans.csv",
}
_AFTER_TRAINING = ("predict", "evaluate", "ci")  # sections of params that training does not depend on
_REGISTERS = "evaluate.register"  # what is made again is no challenger of what it was made from
_OF_THE_MACHINE = ("samples_per_second", "data_wait_share", "system/")  # what these name differs from run to run


@dataclass(frozen=True)
class Comparison:
    """Two runs' metrics: how many are in both, the largest difference and whose it is, what only one has."""

    kind: str
    original: TrackedRun
    again: TrackedRun
    num_metrics: int
    largest: float
    metric: str
    one_sided: list[str]

    def is_equal(self, tolerance: float) -> bool:
        """Whether both have the same metrics and none differs by more than `tolerance`."""
        return self.largest <= tolerance and not self.one_sided and self.num_metrics > 0


def compare_runs(original: TrackedRun, again: TrackedRun) -> Comparison:
    """Compare each metric's value at its last step; times and the machine's load are left out."""
    first, second = (
        {key: value for key, value in run.metrics.items() if not any(part in key for part in _OF_THE_MACHINE)}
        for run in (original, again)
    )
    differences = {key: abs(first[key] - second[key]) for key in sorted(first.keys() & second.keys())}
    metric = max(differences, key=lambda key: differences[key], default="")
    return Comparison(
        kind=original.kind,
        original=original,
        again=again,
        num_metrics=len(differences),
        largest=differences.get(metric, 0.0),
        metric=metric,
        one_sided=sorted(first.keys() ^ second.keys()),
    )


def reproduce(run: TrackedRun, store: RunStore, into: Path, *, project: Path = Path()) -> list[Comparison]:
    """Check the run's commit out into the folder `into`, restore params and data, train, predict and evaluate again.

    The new runs stand in the same experiment, with the tag lunaops.reproduces. Compared are the training and, where the
    store holds it, its evaluation with the same params at the same commit. Raises InputError if the run cannot be
    reproduced: another program's, uncommitted code, a cut parameter, other data than it had.
    """
    commit = _check_reproducible(run)
    originals = _originals(run, store)
    _add_worktree(commit, into, project)
    params = {key: "null" if key == _REGISTERS else text for key, text in run.params.items()}
    changed = restore_params(into / "params.yaml", params)
    logger.info("%s: commit %s, %d params differ from it", into, commit[:7], len(changed))
    _say_other_versions(run)
    digests = {name: digest for original in originals.values() for name, digest in _digests(original).items()}
    _restore_lock(digests, into, project)
    _repro(*(["--pull"] if has_remote(into) else []), "build-cache", folder=into)
    _check_inputs(digests, into)
    begin = int(time.time() * 1000)
    environment = {"MLFLOW_TRACKING_URI": store.uri, "MLFLOW_EXPERIMENT_NAME": run.experiment}
    _repro("--force", "--single-item", "train", "predict", "evaluate", folder=into, environment=environment)
    comparisons = []
    for kind, original in originals.items():
        again = store.newest(kind, commit, since_millis=begin)
        if again is None:
            raise InputError(f"the new {kind} run is not in MLflow; its files are in {into}")
        store.tag(again.run_id, "lunaops.reproduces", original.run_id)
        comparisons.append(compare_runs(original, again))
    return comparisons


def _check_reproducible(run: TrackedRun) -> str:
    """The run's commit; raises InputError if that and the params do not say all that ran."""
    named = f"run {run.run_id} ({run.name})"
    if run.kind not in ("train", "evaluate"):
        raise InputError(f"{named} is not one of stage train or evaluate")
    if run.commit is None:
        raise InputError(f"{named} ran outside a git repository: nothing says which code")
    if run.is_dirty:
        raise InputError(f"{named} ran with uncommitted changes of code: commit {run.commit} is not what ran")
    check_whole(run.params)
    return run.commit


def _originals(run: TrackedRun, store: RunStore) -> dict[str, TrackedRun]:
    """The run and its training, or its newest evaluation, of the same commit and params; by kind."""
    if run.kind == "train":
        relatives = [child for child in store.children(run.run_id) if child.params == run.params]
    else:
        parents = [store.get(run.parent_id)] if run.parent_id and store.has(run.parent_id) else []
        relatives = [parent for parent in parents if _of_training(parent.params) == _of_training(run.params)]
    same = [each for each in relatives if each.commit == run.commit and not each.is_dirty]
    both = {each.kind: each for each in [*reversed(same), run]}
    return {kind: both[kind] for kind in ("train", "evaluate") if kind in both}


def _of_training(params: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in params.items() if key.partition(".")[0] not in _AFTER_TRAINING}


def _add_worktree(commit: str, into: Path, project: Path) -> None:
    """A worktree with DVC's cache and local settings of the project."""
    if into.exists():
        raise InputError(f"--into {into}: exists; name a folder that does not")
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}", folder=project)
    except InputError as error:
        raise InputError(f"commit {commit} is not in this repository; `git fetch` may bring it") from error
    git("worktree", "add", "--detach", str(into.resolve()), commit, folder=project)
    local = project / ".dvc" / "config.local"
    if local.is_file():
        shutil.copy(local, into / ".dvc" / "config.local")
    dvc("cache", "dir", "--local", dvc("cache", "dir", folder=project).strip(), folder=into)


def _digests(run: TrackedRun) -> dict[str, str]:
    """DVC's hashes of the inputs that the run was tagged with."""
    return {name: run.tags[f"dvc.{name}"] for name in _INPUTS if f"dvc.{name}" in run.tags}


def _restore_lock(digests: dict[str, str], into: Path, project: Path) -> None:
    """Give the worktree the dvc.lock that holds the hashes of the run's inputs: so data come from the cache.

    A run's commit is older than the lock that the run wrote. Without such a lock DVC makes the data again.
    """
    lock = into / "dvc.lock"
    for text in _locks(lock, project):
        if all(digest in text for digest in digests.values()):
            lock.write_text(text, encoding="utf-8")
            return
    logger.warning("no dvc.lock in this repository has the hashes of the run's inputs: DVC makes them again")


def _locks(own: Path, project: Path) -> Iterator[str]:
    """The dvc.lock of the run's commit, of the project as it stands, and of every commit and experiment."""
    for path in (own, project / own.name):
        if path.is_file():
            yield path.read_text(encoding="utf-8")
    for commit in git("log", "--all", "--format=%H", "--diff-filter=AM", "--", own.name, folder=project).split():
        yield git("show", f"{commit}:{own.name}", folder=project)


def _repro(*arguments: str, folder: Path, environment: dict[str, str] | None = None) -> None:
    code = run_dvc("repro", *arguments, folder=folder, environment=environment)
    if code:
        raise InputError(f"`dvc repro {' '.join(arguments)}` failed in {folder} (exit code {code}): see above")


def _check_inputs(digests: dict[str, str], into: Path) -> None:
    for name, wanted in digests.items():
        path = into / "data" / _INPUTS[name]
        got = content_digest(path)
        if got != wanted:
            raise InputError(f"{path}: {got} by DVC's hash, but the run had {wanted}: other data")


def _say_other_versions(run: TrackedRun) -> None:
    now = library_versions()
    other = {
        name: (run.tags[f"version.{name}"], version)
        for name, version in now.items()
        if run.tags.get(f"version.{name}", version) != version
    }
    for name, (then, version) in other.items():
        logger.warning("the run had %s %s, here is %s", name, then, version)


def as_text(comparisons: list[Comparison], tolerance: float) -> str:
    """What was found, a line a run; the runs that could not be compared too."""
    lines = [_sentence(each, tolerance) for each in comparisons]
    missing = {"train": "training", "evaluate": "evaluation"}
    for kind in sorted(set(missing) - {each.kind for each in comparisons}):
        lines.append(f"{kind}: no {missing[kind]} of the same commit and params is in MLflow, so none is compared")
    return "\n".join(lines)


def _sentence(found: Comparison, tolerance: float) -> str:
    said = f"{found.kind}: {found.again.run_id} and {found.original.run_id}: "
    if found.one_sided:
        said += f"only one has {', '.join(found.one_sided[:5])}; "
    if found.is_equal(tolerance):
        within = f" (largest difference {found.largest:.3g} in {found.metric})" if found.largest else ""
        return f"{said}equal in {found.num_metrics} metrics{within}"
    values = json.dumps([found.original.metrics.get(found.metric), found.again.metrics.get(found.metric)])
    return f"{said}not equal: largest difference {found.largest:.3g}, in {found.metric}: {values}"
