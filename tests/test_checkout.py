import subprocess
from pathlib import Path

import pytest

from lunaops.checkout import dvc, git
from lunaops.errors import InputError

PIPELINE = "stages:\n  a:\n    cmd: echo a > a\n    outs: [a]\n"
LOCK = "schema: '2.0'\nstages:\n  a:\n    cmd: echo a > a\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A DVC project of one stage."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc("init", "-q", folder=tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "dvc.lock").write_text(LOCK)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("dvc.yaml", PIPELINE + "x: [\n", "'./dvc.yaml' is invalid. While parsing a flow node, in line 6, column 1"),
        (
            "dvc.yaml",
            PIPELINE.replace("outs", "ouths"),
            "'./dvc.yaml' validation failed. extra keys not allowed, in stages -> a -> ouths, line 4, column ",
        ),
        (
            "dvc.yaml",
            PIPELINE.replace("outs", "ouths").replace("cmd", "cmmd"),
            "'./dvc.yaml' validation failed: 3 errors. ",
        ),
        (
            "dvc.lock",
            LOCK.replace("  a:", "<<<<<<< HEAD\n  a:"),
            "'./dvc.lock' is invalid (possible merge conflicts). While scanning a simple key, in line 3, column 1",
        ),
    ],
)
def test_of_a_file_that_dvc_cannot_read_it_is_said_which_and_where(
    project: Path, name: str, text: str, reason: str
) -> None:
    (project / name).write_text(text)
    with pytest.raises(InputError) as caught:
        dvc("status", "--json", folder=project)
    assert f"-m dvc status --json` failed: {reason}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_dvcs_error_and_gits_are_said(project: Path) -> None:
    (project / "dvc.yaml").write_text(PIPELINE.replace("echo a >", "${nothing}"))
    with pytest.raises(InputError, match=r"status` failed: ERROR: failed to parse 'stages.a.cmd' in 'dvc.yaml'"):
        dvc("status", folder=project)
    with pytest.raises(InputError, match=r"^`git merge-base a b` failed: fatal: Not a valid object name a"):
        git("merge-base", "a", "b", folder=project)


@pytest.mark.parametrize(
    ("spoken", "reason"),
    [
        (r"a hint is invalid\nfatal: no access", "fatal: no access"),
        (r"  x.yaml is invalid.\nIn line 2\n  cut: [", "x.yaml is invalid. In line 2"),
        (r"one\ntwo", "two"),
        ("", "it says nothing"),
    ],
)
def test_an_error_goes_before_what_is_invalid_and_an_indented_line_is_kept(spoken: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        git("-c", f"alias.say=!printf '{spoken}' >&2; false", "say")
    assert str(caught.value).endswith(f"` failed: {reason}")
