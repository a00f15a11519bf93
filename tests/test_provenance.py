import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lunaops import provenance
from lunaops.params import read_params

PARAMS = Path(__file__).parent.parent / "params.yaml"


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    for name in ("code.py", "dvc.lock", "reports/metrics.json"):
        (tmp_path / name).write_text("1")
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_the_commit_is_the_one_checked_out(repository: Path) -> None:
    assert provenance.git_commit(repository) == git(repository, "log", "--format=%H")


def test_a_changed_source_file_is_dirty(repository: Path) -> None:
    assert provenance.is_dirty(repository) is False
    (repository / "code.py").write_text("2")
    assert provenance.is_dirty(repository) is True


@pytest.mark.parametrize("name", ["dvc.lock", "reports/metrics.json", "untracked.txt"])
def test_what_the_pipeline_writes_does_not_make_the_tree_dirty(repository: Path, name: str) -> None:
    (repository / name).write_text("2")
    assert provenance.is_dirty(repository) is False


def test_changed_params_do_not_make_the_tree_dirty(repository: Path) -> None:
    text = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(text.replace("epochs: ", "epochs: 1"))
    assert provenance.is_dirty(repository) is False


def test_outside_a_repository_nothing_is_claimed(tmp_path: Path) -> None:
    assert provenance.git_commit(tmp_path) is None
    assert provenance.is_dirty(tmp_path) is None
    assert provenance.changed_params({"train.seed": 5}, tmp_path) == {}


def test_without_git_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_commit(tmp_path) is None


def test_a_committed_text_is_that_of_the_commit_not_of_the_disk(repository: Path) -> None:
    path = repository / "reports" / "metrics.json"
    first = git(repository, "log", "--format=%H")
    path.write_text("2")
    (repository / "code.py").write_text("2")
    git(repository, "commit", "--quiet", "-m", "second", "code.py")
    assert (provenance.committed_text(path), provenance.commit_of_file(path)) == ("1", first)


@pytest.mark.parametrize("name", ["reports/untracked.json", "no-such-folder/metrics.json"])
def test_what_was_never_committed_has_no_text_and_no_commit(repository: Path, name: str) -> None:
    assert provenance.committed_text(repository / name) is None
    assert provenance.commit_of_file(repository / name) is None


def test_changed_params_are_those_that_differ_from_the_commit(repository: Path) -> None:
    params = read_params(PARAMS).flattened()
    assert provenance.changed_params(params, repository) == {}
    changed = params | {"train.learning_rate": 0.5, "split.val": ["subset9"]}
    assert provenance.changed_params(changed, repository) == {"train.learning_rate": 0.5, "split.val": ["subset9"]}


def test_a_commit_of_other_params_is_no_ground_for_comparison(repository: Path) -> None:
    (repository / "params.yaml").write_text("old: {section: 1}")
    git(repository, "commit", "--quiet", "-am", "older code")
    assert provenance.changed_params({"train.seed": 5}, repository) == {}


@pytest.mark.slow
def test_the_digest_is_the_one_that_dvc_writes(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\r\n1,2\r\n")
    for name in ("a/b.txt", "a.txt", "a/é/c.txt"):  # 'a.txt' < 'a/b.txt' as text, not as paths
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*dvc, "add", "--quiet", "table.csv", "folder"], cwd=tmp_path, check=True)
    for name in ("table.csv", "folder"):
        said_by_dvc = YAML(typ="safe").load((tmp_path / f"{name}.dvc").read_text())["outs"][0]["md5"]
        assert provenance.content_digest(tmp_path / name) == said_by_dvc


def test_versions_are_known_without_importing_the_libraries() -> None:
    code = (
        "import json, sys; from lunaops import provenance; versions = provenance.library_versions();"
        "print(json.dumps([versions, 'torch' in sys.modules]))"
    )
    versions, is_torch_imported = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert versions["torch"]
    assert versions["python"].startswith("3.")
    assert not is_torch_imported


def test_a_cpu_is_named_by_its_kind_not_by_its_host() -> None:
    assert provenance.device_name("cpu").startswith("cpu: ")
