import json
import shutil
import sys
from pathlib import Path

import pytest
from repository import call, change, commit, copy_of, stages_run

from lunaops.ci_plan import Plan
from lunaops.ci_report import Changes, Pair, Verdict, as_markdown, failed_markdown, judge, read_changes, workflow_link
from lunaops.task import MALIGNANCY

CURVE = {"sensitivity_at/0.125": (0.5, 0.25), "sensitivity_at/1": (0.75, 0.5), "sensitivity_at/8": (1.0, 1.0)}


def changes(cpm: Pair, others: dict[str, Pair] | None = None, **more: Pair) -> Changes:
    return Changes("b" * 40, {"evaluate.threshold": (0.5, 0.4)}, {"cpm": cpm, **CURVE, **more}, others or {})


@pytest.mark.parametrize(
    ("cpm", "is_passed", "reason"),
    [
        ((0.75, 0.75), True, "CPM of split test 0.7500 → 0.7500, +0; `ci.max_cpm_drop` allows a drop of 0.02"),
        ((0.75, 0.9), True, "0.7500 → 0.9000, +0.15"),
        ((0.75, 0.73), True, "0.7500 → 0.7300, −0.02"),
        ((0.75, 0.729), False, "0.7500 → 0.7290, −0.021"),
        ((None, 0.1), True, "CPM of split test is 0.1000; the base has none to compare with"),
        ((0.75, None), False, "there is no CPM of split test"),
    ],
)
def test_the_gate_bounds_the_drop_of_the_cpm(cpm: Pair, is_passed: bool, reason: str) -> None:
    verdict = judge(changes(cpm), split="test", max_cpm_drop=0.02)
    assert verdict.is_passed is is_passed
    assert reason in verdict.reason


def test_the_gate_does_not_open_by_evaluating_another_split() -> None:
    verdict = judge(changes((None, 0.9), {"val.cpm": (0.95, None)}), split="test", max_cpm_drop=0.02)
    assert not verdict.is_passed
    assert "the base has only val.cpm" in verdict.reason


def of_malignancy(was: str | None, roc_auc: Pair) -> Verdict:
    found = Changes(
        "b" * 40, {"model.task": (was, "malignancy")} if was != "malignancy" else {}, {"roc_auc": roc_auc}, {}
    )
    return judge(found, split="test", max_cpm_drop=0.02, task=MALIGNANCY)


@pytest.mark.parametrize(
    ("was", "roc_auc", "is_passed", "reason"),
    [
        ("malignancy", (0.9, 0.89), True, "ROC AUC of split test 0.9000 → 0.8900, −0.01; `ci.max_cpm_drop` allows"),
        ("malignancy", (0.9, 0.8), False, "0.9000 → 0.8000, −0.1"),
        ("malignancy", (0.9, None), False, "there is no ROC AUC of split test"),
        ("nodule", (0.9, 0.95), False, "model.task is malignancy, of the base nodule: the two do not compare"),
        (None, (0.9, 0.95), False, "model.task is malignancy, of the base nodule: the two do not compare"),
        (None, (None, 0.95), True, "the base has none to compare with"),
    ],
)
def test_of_the_task_without_a_cpm_the_roc_auc_is_judged(
    was: str | None, roc_auc: Pair, is_passed: bool, reason: str
) -> None:
    verdict = of_malignancy(was, roc_auc)
    assert verdict.is_passed is is_passed
    assert reason in verdict.reason


def comment(found: Changes, plan: Plan | None = None) -> str:
    verdict = judge(found, split="test", max_cpm_drop=0.02)
    return as_markdown(found, verdict, plan or Plan({}, True), split="test", head="a" * 40, links=["a link"])


def test_the_comment_says_verdict_params_metrics_and_links() -> None:
    lines = comment(changes((0.75, 0.5), roc_auc=(0.9, 0.9)), Plan({"train": ["train.seed"]}, True)).splitlines()
    assert lines[0] == "<!-- lunaops ci-report -->"
    assert "## Evaluation of aaaaaaa against bbbbbbb" in lines
    assert any(line.startswith("**Gate failed**: CPM of split test 0.7500 → 0.5000, −0.25") for line in lines)
    assert "Ran the whole pipeline (`dvc repro --pull`): train: train.seed." in lines
    assert "| `evaluate.threshold` | `0.5` | `0.4` |" in lines
    assert "| `cpm` | 0.7500 | 0.5000 | −0.25 |" in lines
    assert "| `roc_auc` | 0.9000 | 0.9000 | = |" in lines
    assert "<details><summary>All that changed: 3 of 5 metrics</summary>" in lines
    assert lines[-1] == "a link"


def test_the_comment_of_a_failed_repro_says_what_ran_and_why() -> None:
    assert failed_markdown(255, Plan({}, False), base="b" * 40, head="a" * 40).splitlines() == [
        "<!-- lunaops ci-report -->",
        "## Evaluation of aaaaaaa against bbbbbbb",
        "",
        "**Gate failed**: `dvc repro` failed (exit code 255); the log of the job says why.",
        "",
        "Ran evaluate alone (`dvc repro --single-item evaluate`): no stage before evaluate is affected.",
    ]


def test_a_reason_names_three_stages_and_three_changes_of_each() -> None:
    stale = {name: ["1", "2", "3", "4", "5"] for name in "abcd"} | {"evaluate": ["1"]}
    assert Plan(stale, True).reason == "a: 1, 2, 3, 2 more; b: 1, 2, 3, 2 more; c: 1, 2, 3, 2 more; 1 more"
    assert Plan({"a": ["1", "2", "3"]}, True).reason == "a: 1, 2, 3"


def test_the_froc_is_drawn_and_tabled_at_its_rates() -> None:
    lines = comment(changes((0.75, 0.75))).splitlines()
    start = lines.index("```mermaid")
    assert lines[start : start + 7] == [
        "```mermaid",
        "xychart-beta",
        '  x-axis "false positives per scan" ["1/8", "1", "8"]',
        '  y-axis "sensitivity" 0 --> 1',
        "  line [0.5000, 0.7500, 1.0000]",
        "  line [0.2500, 0.5000, 1.0000]",
        "```",
    ]
    assert "|  | 1/8 | 1 | 8 |" in lines
    assert "| change | −0.25 | −0.25 | = |" in lines
    assert "### FROC: sensitivity at false positives per scan (base, now, drawn in this order)" in lines


def test_a_curve_that_is_not_in_the_base_is_drawn_alone() -> None:
    found = Changes("b", {}, {"cpm": (None, 0.5), "sensitivity_at/1": (None, 0.5)}, {})
    lines = comment(found).splitlines()
    assert [line for line in lines if line.startswith("  line")] == ["  line [0.5000]"]
    assert "| base | – |" in lines
    assert "None differs." in lines
    assert "### FROC: sensitivity at false positives per scan" in lines


def test_without_a_whole_curve_there_is_the_table_alone() -> None:
    found = Changes("b", {}, {"sensitivity_at/1": (0.5, None), "sensitivity_at/8": (None, 0.5)}, {})
    lines = comment(found).splitlines()
    assert "### FROC: sensitivity at false positives per scan" in lines
    assert "```mermaid" not in lines
    assert "| now | – | 0.5000 |" in lines


def test_values_of_a_pull_request_cannot_break_the_table() -> None:
    found = Changes("b", {"fetch.directory": (None, "`<b>|\n\n# big`")}, {}, {})
    assert "| `fetch.directory` | – | `'<b>¦ # big'` |" in comment(found)


def test_in_a_workflow_the_comment_leads_to_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_RUN_ID", raising=False)
    assert workflow_link() == []
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    assert "(https://git.example.org/a/b/actions/runs/7)" in workflow_link()[0]


# what DVC says of two commits, `metrics.json` of each as evaluate writes it


def evaluated(project: Path, split: str, rule: str, cpm: float) -> None:
    numbers = {"threshold_rule": rule, "cpm": cpm, "sensitivity_at/1": cpm, "ece": 0.1, "roc_auc": None}
    (project / "reports").mkdir(exist_ok=True)
    (project / "reports" / "metrics.json").write_text(json.dumps({split: numbers}))
    (project / "params.yaml").write_text(json.dumps({"evaluate": {"split": split, "threshold_rule": rule}}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose only commit has no metrics.json yet."""
    call(tmp_path, "git", "init", "-q", "-b", "main")
    call(tmp_path, "dvc", "init", "-q")
    (tmp_path / "dvc.yaml").write_text("metrics: [reports/metrics.json]\n")
    (tmp_path / "params.yaml").write_text('{"evaluate": {"split": "test", "threshold_rule": "fixed"}}')
    commit(tmp_path)
    return tmp_path


def compared(project: Path, split: str) -> tuple[Changes, Verdict, list[str]]:
    """What is read, judged and commented of the working tree against HEAD."""
    found = read_changes("HEAD", split=split, folder=project)
    verdict = judge(found, split=split, max_cpm_drop=0.02)
    text = as_markdown(found, verdict, Plan({}, False), split=split, head="a" * 40, links=[])
    return found, verdict, text.splitlines()


@pytest.mark.slow
def test_a_base_without_metrics_has_none_to_compare_with(project: Path) -> None:
    evaluated(project, "test", "fixed", 0.75)
    found, _, lines = compared(project, "test")
    assert found.metrics["cpm"] == (None, 0.75)
    assert "**Gate passed**: CPM of split test is 0.7500; the base has none to compare with." in lines
    assert "| `cpm` | – | 0.7500 |  |" in lines


@pytest.mark.slow
def test_another_threshold_rule_stands_among_the_parameters_alone(project: Path) -> None:
    evaluated(project, "test", "fixed", 0.75)
    commit(project)
    evaluated(project, "test", "best_f1", 0.875)
    found, verdict, lines = compared(project, "test")
    assert verdict.is_passed
    assert "threshold_rule" not in found.metrics
    assert "| `evaluate.threshold_rule` | `fixed` | `best_f1` |" in lines
    assert "| `cpm` | 0.7500 | 0.8750 | +0.125 |" in lines


@pytest.mark.slow
def test_another_split_fails_and_the_comment_says_what_the_base_has(project: Path) -> None:
    evaluated(project, "test", "fixed", 0.75)
    commit(project)
    evaluated(project, "val", "fixed", 0.875)
    _, _, lines = compared(project, "val")
    assert "**Gate failed**: CPM of split val is 0.8750; the base has only test.cpm." in lines
    assert "| `test.cpm` | 0.7500 | – |  |" in lines


# a repository with a remote, and a clone of it


@pytest.fixture(scope="module")
def remote(built: Path) -> Path:
    """The project with its results committed and its data pushed to a folder."""
    project = copy_of(built, "origin")
    call(project, "dvc", "remote", "add", "--default", "folder", "../remote")
    commit(project)
    call(project, "dvc", "push")
    return project


@pytest.fixture
def clone(remote: Path) -> Path:
    clone = remote.parent / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    call(remote.parent, "git", "clone", "--quiet", str(remote), str(clone))
    return clone


def ci_report(clone: Path, *options: str, code: int = 0) -> str:
    return call(clone, sys.executable, "-m", "lunaops", "ci-report", *options, code=code)


@pytest.mark.long
@pytest.mark.xdist_group("repro")
def test_a_changed_threshold_evaluates_alone_and_passes_the_gate(clone: Path) -> None:
    change(clone, {"evaluate.threshold": 0.4})
    commit(clone)
    output = ci_report(clone, "--out", "comment.md")
    assert stages_run(output) == ["evaluate"]
    assert "gate passed: CPM of split test" in output
    assert not (clone / "models").exists()
    lines = (clone / "comment.md").read_text().splitlines()
    cpm = json.loads((clone / "reports" / "metrics.json").read_text())["test"]["cpm"]
    assert f"| `cpm` | {cpm:.4f} | {cpm:.4f} | = |" in lines
    assert "| `evaluate.threshold` | `0.5` | `0.4` |" in lines
    assert any(line.startswith("**Gate passed**: ") for line in lines)
    assert any(line.startswith("Ran evaluate alone (`dvc repro --pull --single-item evaluate`)") for line in lines)


@pytest.mark.long
@pytest.mark.xdist_group("repro")
def test_a_cpm_that_dropped_fails_after_the_comment_is_written(clone: Path) -> None:
    metrics = clone / "reports" / "metrics.json"
    ours = metrics.read_text()
    better = json.loads(ours)
    better["test"]["cpm"] = 0.9
    metrics.write_text(json.dumps(better))
    commit(clone)
    metrics.write_text(ours)
    commit(clone)
    output = ci_report(clone, "--base", "HEAD~1", "--out", "comment.md", code=1)
    assert stages_run(output) == []
    assert "error: gate failed: CPM of split test 0.9000 → " in output
    assert "**Gate failed**: CPM of split test 0.9000 → " in (clone / "comment.md").read_text()


@pytest.mark.long
@pytest.mark.xdist_group("repro")
def test_what_runs_before_evaluate_plans_the_pipeline(clone: Path) -> None:
    with (clone / "lunaops" / "evaluation.py").open("a") as file:
        file.write("# changed\n")
    change(clone, {"evaluate.threshold": 0.4, "ci.max_cpm_drop": 0.5})
    assert ci_report(clone, "--plan").splitlines() == ["evaluate", "no stage before evaluate is affected"]
    change(clone, {"train.learning_rate": 0.01})
    output = ci_report(clone, "--plan")
    assert output.splitlines()[0] == "pipeline"
    assert "train: train" in output


@pytest.mark.long
@pytest.mark.xdist_group("repro")
def test_where_dvc_fails_the_comment_says_so(clone: Path) -> None:
    call(clone, "dvc", "remote", "modify", "folder", "url", "../nowhere")
    change(clone, {"evaluate.threshold": 0.4})
    output = ci_report(clone, "--out", "comment.md", code=1)
    assert "gate failed: `dvc repro --pull --single-item evaluate` failed" in output
    assert "**Gate failed**: `dvc repro" in (clone / "comment.md").read_text()
    assert "--base nowhere: shares no commit" in ci_report(clone, "--base", "nowhere", code=1)
