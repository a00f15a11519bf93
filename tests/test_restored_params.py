import json
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from lunaops.errors import InputError
from lunaops.params import read_params
from lunaops.restored_params import check_whole, restore_params

COMMITTED = ROOT / "params.yaml"


def logged(path: Path) -> dict[str, str]:
    """As tracking logs params: text as it is, all else as JSON."""
    flat = read_params(path).flattened()
    return {
        key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for key, value in flat.items()
    }


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED.read_text())
    return path


def test_a_run_of_the_committed_params_changes_nothing(params: Path) -> None:
    before = read_params(params)
    assert restore_params(params, logged(params)) == {}
    assert read_params(params) == before


def test_every_kind_of_value_comes_back_and_comments_stay(params: Path) -> None:
    changes = {
        "train.learning_rate": "3e-05",
        "train.epochs": "2",
        "augment.flip": "false",
        "evaluate.max_marks_per_scan": "100",
        "split.val": '["subset0","subset1"]',
        "fetch.source": "directory",
        "fetch.directory": "/data/LUNA16",
        "train.device": "cuda:1",
    }
    texts = logged(params) | changes
    assert set(restore_params(params, texts)) == set(changes)
    assert logged(params) == texts
    assert read_params(params).train.learning_rate == 3e-05
    assert "# the book: 0.001, of sgd" in params.read_text()


def test_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("fetch: {directory: '1', labels: null}\n")
    assert restore_params(path, {"fetch.directory": "123", "fetch.labels": "null"}) == {"fetch.directory": "123"}
    assert "123" in path.read_text()
    assert restore_params(path, {"fetch.directory": "123"}) == {}
    assert restore_params(path, {"fetch.directory": "null"}) == {"fetch.directory": None}


@given(value=st.floats(min_value=1e-12, max_value=1e12))
def test_any_number_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text("train: {learning_rate: 0.0}\n")
    restore_params(path, {"train.learning_rate": json.dumps(value)})
    assert YAML(typ="safe", pure=True).load(path.read_text()) == {"train": {"learning_rate": value}}  # as read_params


def test_a_parameter_that_the_commit_lacks_and_a_value_that_was_cut_are_named(params: Path) -> None:
    with pytest.raises(InputError, match="has no parameter train.magic, which the run has"):
        restore_params(params, {"train.magic": "1"})
    with pytest.raises(InputError, match="parameter phantom.slices_mm was cut when it was logged"):
        check_whole({"phantom.slices_mm": "[1," * 1999 + "…"})
    check_whole({"train.seed": "1"})
