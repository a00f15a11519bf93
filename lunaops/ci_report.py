"""What a pull request's re-evaluation says: the gate, and the comment in Markdown."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lunaops.checkout import dvc, git
from lunaops.ci_plan import PIPELINE, Plan
from lunaops.comparison import NAMES
from lunaops.errors import InputError
from lunaops.task import NODULE, Task

MARK = "<!-- lunaops ci-report -->"  # by which the workflow finds its comment again
_TELLING = ("cpm", "average_precision", "roc_auc", "by_diameter/roc_auc", "pr/precision", "pr/recall", "pr/f1_score")
_SENSITIVITY = "sensitivity_at/"
_FRACTIONS = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}
_ROUNDING = 1e-9  # metrics.json has six decimals: their difference is not quite a decimal number

Pair = tuple[float | None, float | None]  # in the base, now; None: undefined or not there


@dataclass(frozen=True)
class Verdict:
    """The gate's."""

    is_passed: bool
    reason: str


@dataclass(frozen=True)
class Changes:
    """What differs between a base commit and the working tree: by parameter, and by metric of each split.

    `others` are the metrics of other files and splits.
    """

    base: str
    params: dict[str, tuple[Any, Any]]
    metrics: dict[str, Pair]
    others: dict[str, Pair]


def find_base(revision: str, folder: Path = Path()) -> str:
    """The commit at which HEAD left `revision`; raises InputError if there is none here."""
    try:
        return git("merge-base", revision, "HEAD", folder=folder).strip()
    except InputError as error:
        raise InputError(
            f"--base {revision}: shares no commit with HEAD here; `git fetch origin` (in CI: fetch-depth: 0) may help"
        ) from error


def read_changes(base: str, *, split: str, folder: Path = Path()) -> Changes:
    """Ask `dvc params diff` and `dvc metrics diff`; `split` is the evaluated one.

    A metric that is text, which threshold_rule is, is left out: it is a parameter too, and stands among these.
    """
    questions = ("params", "diff", base), ("metrics", "diff", base, "--all")
    with ThreadPoolExecutor() as threads:  # at once: most of DVC's time is its start
        params, files = threads.map(lambda words: json.loads(dvc(*words, "--json", folder=folder) or "{}"), questions)
    metrics, others = {}, {}
    for path, values in sorted(files.items()):
        is_evaluation = any(name.endswith((".cpm", ".ece")) for name in values)  # of any task
        for name, change in values.items():
            pair = (change.get("old"), change.get("new"))
            if any(isinstance(value, str) for value in pair):
                continue
            if is_evaluation and name.startswith(f"{split}."):
                metrics[name.removeprefix(f"{split}.")] = pair
            else:
                others[name if is_evaluation else f"{Path(path).parent.name}: {name}"] = pair
    return Changes(
        base,
        {key: (each.get("old"), each.get("new")) for values in params.values() for key, each in values.items()},
        metrics,
        others,
    )


def judge(changes: Changes, *, split: str, max_cpm_drop: float, task: Task = NODULE) -> Verdict:
    """Fail a CPM that fell by more than `max_cpm_drop`, is undefined, or has only another split's to compare with.

    A base without any CPM passes: nothing can have dropped, and the first pull request must be able to come in. The
    bound is the pull request's own: one that loosens it shows that among its parameters. Of a task that has no CPM the
    ROC AUC is judged; another task than the base's fails, as the two do not compare.
    """
    what = NAMES[task.telling]
    old, new = changes.metrics.get(task.telling, (None, None))
    if new is None:
        return Verdict(False, f"there is no {what} of split {split}")
    was, _ = changes.params.get("model.task", (task.name, task.name))
    if was is None and old is not None:  # a base from before there were tasks
        was = NODULE.name
    if was not in (None, task.name):
        return Verdict(False, f"model.task is {task.name}, of the base {was}: the two do not compare")
    if old is None:
        ending = f".{task.telling}"
        others = [name for name, (was, _) in changes.others.items() if name.endswith(ending) and was is not None]
        if others:
            return Verdict(False, f"{what} of split {split} is {new:.4f}; the base has only {', '.join(others)}")
        return Verdict(True, f"{what} of split {split} is {new:.4f}; the base has none to compare with")
    change, allowed = new - old, f"`ci.max_cpm_drop` allows a drop of {max_cpm_drop:g}"
    sentence = f"{what} of split {split} {old:.4f} → {new:.4f}, {_signed(change)}; {allowed}"
    return Verdict(-change <= max_cpm_drop + _ROUNDING, sentence)


def as_markdown(changes: Changes, verdict: Verdict, plan: Plan, *, split: str, head: str, links: list[str]) -> str:
    """The comment: the verdict, what ran and why, changed params, metrics, the FROC as picture and table, links."""
    sections = [
        f"{MARK}\n## Evaluation of {head[:7]} against {changes.base[:7]}",
        f"**{'Gate passed' if verdict.is_passed else 'Gate failed'}**: {verdict.reason}.",
        _ran(plan),
        "### Parameters",
        _table(["parameter", "base", "now"], [[_code(k), _code(a), _code(b)] for k, (a, b) in changes.params.items()])
        if changes.params
        else "None differs.",
        f"### Metrics of split {split}",
        _metrics_table({name: changes.metrics[name] for name in _TELLING if name in changes.metrics}),
        *_froc(changes.metrics),
        *_folded(changes.metrics | changes.others),
        *links,
    ]
    return "\n\n".join(sections) + "\n"


def failed_markdown(code: int, plan: Plan, *, base: str, head: str) -> str:
    """The comment where there are no numbers: `dvc repro` failed."""
    return (
        f"{MARK}\n## Evaluation of {head[:7]} against {base[:7]}\n\n**Gate failed**: `dvc repro` "
        f"failed (exit code {code}); the log of the job says why.\n\n{_ran(plan)}\n"
    )


def _ran(plan: Plan) -> str:
    what = "the whole pipeline" if plan.kind == PIPELINE else "evaluate alone"
    command = " ".join(["dvc repro", *plan.repro_arguments])
    return f"Ran {what} (`{command}`): {plan.reason}."


def workflow_link() -> list[str]:
    """In a workflow of GitHub, where its log and the artifact with the pictures are; else nothing."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run_id = (os.environ.get(name) for name in names)
    if not run_id:
        return []
    url = f"{server}/{repository}/actions/runs/{run_id}"
    return [f"[Log, and the pictures as artifact `evaluation`]({url})"]


def _froc(metrics: dict[str, Pair]) -> Iterator[str]:
    """The curve at its rates, as a Mermaid chart, which GitHub draws in comments, and as a table."""
    rates = {float(name.removeprefix(_SENSITIVITY)): name for name in metrics if name.startswith(_SENSITIVITY)}
    if not rates:
        return
    ordered = sorted(rates)
    words = [_FRACTIONS.get(rate, f"{rate:g}") for rate in ordered]
    pairs = [metrics[rates[rate]] for rate in ordered]
    curves = {"base": [old for old, _ in pairs], "now": [new for _, new in pairs]}
    whole = {name: values for name, values in curves.items() if None not in values}
    axis = ", ".join(f'"{word}"' for word in words)
    order = f" ({', '.join(whole)}, drawn in this order)" if len(whole) > 1 else ""
    yield f"### FROC: sensitivity at false positives per scan{order}"
    if whole:
        lines = "\n".join(f"  line [{', '.join(f'{value:.4f}' for value in values)}]" for values in whole.values())
        yield (
            f'```mermaid\nxychart-beta\n  x-axis "false positives per scan" [{axis}]\n'
            f'  y-axis "sensitivity" 0 --> 1\n{lines}\n```'
        )
    rows = [[name, *map(_number, values)] for name, values in curves.items()]
    yield _table(["", *words], [*rows, ["change", *(_change(pair) for pair in pairs)]])


def _folded(metrics: dict[str, Pair]) -> Iterator[str]:
    """Every metric that changed, folded; of the others their number."""
    changed = {name: pair for name, pair in sorted(metrics.items()) if pair[0] != pair[1]}
    yield f"<details><summary>All that changed: {len(changed)} of {len(metrics)} metrics</summary>"
    if changed:
        yield _metrics_table(changed)
    yield "</details>"


def _metrics_table(metrics: dict[str, Pair]) -> str:
    rows = [[_code(name), _number(pair[0]), _number(pair[1]), _change(pair)] for name, pair in metrics.items()]
    return _table(["metric", "base", "now", "change"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ruler, *rows])


def _change(pair: Pair) -> str:
    old, new = pair
    return "" if old is None or new is None else "=" if old == new else _signed(new - old)


def _signed(change: float) -> str:
    return f"{change:+.4g}".replace("-", "−")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 1 and value == int(value) else f"{value:.4f}"


def _code(value: Any) -> str:
    """A name or a value between backticks; what comes from a pull request shall not become Markdown or HTML."""
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value)
    return "`" + " ".join(text.replace("`", "'").replace("|", "¦").split()) + "`"
