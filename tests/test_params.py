from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from lunaops.errors import InputError
from lunaops.params import read_params


def tree() -> dict[str, Any]:
    return YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def written(folder: Path, tree: Any) -> Path:
    path = folder / "params.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(tree, file)
    return path


def test_the_projects_own_params_are_right() -> None:
    read_params(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "learning_rat", 0.1, "train.learning_rat: unknown parameter; mend the name or remove it"),
        ("train", "learning_rate", -1.0, "train.learning_rate: Input should be greater than 0, got -1.0"),
        ("train", "learning_rate", float("nan"), "train.learning_rate: Input should be a finite number"),
        ("train", "learning_rate", float("inf"), "train.learning_rate: Input should be a finite number"),
        ("train", "momentum", 1.0, "train.momentum: Input should be less than 1, got 1.0"),
        ("train", "epochs", "3", "train.epochs: Input should be a valid integer, got '3'"),
        ("train", "epochs", 2.5, "train.epochs: Input should be a valid integer"),
        ("train", "epochs", True, "train.epochs: Input should be a valid integer, got True"),
        ("train", "device", "gpu", "train.device: .*got 'gpu'"),
        ("train", "best_by", "accuracy", "train.best_by: .*got 'accuracy'"),
        ("fetch", "source", "kaggle", "fetch.source: .*got 'kaggle'"),
        ("fetch", "source", "directory", "fetch.directory must|'directory', so fetch.directory must name"),
        ("fetch", "base_url", "zenodo.org", "fetch.base_url: .*got 'zenodo.org'"),
        ("fetch", "base_url", "https://zenodo.org//", "fetch.base_url: "),
        ("fetch", "base_url", "https://zenodo.org/?a=b", "fetch.base_url: "),
        ("fetch", "parts", ["labels", "subset10"], "fetch.parts.1: .*got 'subset10'"),
        ("fetch", "parts", [], "fetch.parts: "),
        ("fetch", "copy_scans", "yes", "fetch.copy_scans: Input should be a valid boolean, got 'yes'"),
        ("fetch", "parts", ["subset0"], "fetch.parts must name labels and at least one subset, got subset0"),
        ("crop", "size_irc", [32, 48, 15], "crop.size_irc.2: Input should be greater than or equal to 16"),
        ("crop", "size_irc", [32, 48, 513], "crop.size_irc.2: Input should be less than or equal to 512"),
        ("train", "samples_per_epoch", 10**12, "train.samples_per_epoch: Input should be less than or equal to 1000"),
        ("fetch", "parts", ["labels", "subset0", "subset0"], "fetch.parts names a part twice"),
        ("split", "test", ["subset3"], "split.val and test both name subset3"),
        ("split", "val", [], "split.val must name a subset where strategy is 'subset'"),
        ("split", "strategy", "random", "split.strategy: .*got 'random'"),
        ("split", "fold", 10, "split.fold: Input should be less than or equal to 9, got 10"),
        ("split", "val_share", 0.0, "split.val_share: Input should be greater than 0"),
        ("split", "test_share", 0.9, "split.val_share 0.1 and test_share 0.9 leave nothing to train"),
        ("crop", "size_irc", [32, 48], r"crop.size_irc: too few values, got \[32, 48\]$"),
        ("crop", "size_irc", [32, 48, 48, 48], "crop.size_irc: .*at most 3 items"),
        ("split", "val", ["subset3", "subset3"], "split.val names a subset twice: subset3, subset3"),
        ("predict", "splits", ["val", "test", "val"], "predict.splits names a split twice: val, test, val"),
        ("train", "seed", 2**32, "train.seed: Input should be less than 4294967296"),
        ("model", "channels", 10000, "model.channels: Input should be less than or equal to 256"),
        ("phantom", "blur_mm", [0.5, 400.0], "phantom.blur_mm.1: Input should be less than or equal to 5, got 400.0"),
        ("phantom", "slices_mm", [500.0], "phantom.slices_mm.0: Input should be less than or equal to 10"),
        ("phantom", "diameter_deciles_mm", [3.0, 90.0], "phantom.diameter_deciles_mm.1: .*got 90.0"),
        ("crop", "hu_range", [1000, -1000], "crop.hu_range must rise"),
        ("crop", "pad_hu", -2000, "crop.pad_hu -2000 lies outside"),
        ("augment", "scale", -0.1, "augment.scale: Input should be greater than or equal to 0, got -0.1"),
        ("augment", "offset_mm", 80.0, "augment.offset_mm: Input should be less than or equal to 50, got 80.0"),
        ("augment", "rotate_degrees", 360, "augment.rotate_degrees: Input should be less than or equal to 180"),
        ("augment", "noise_hu", True, "augment.noise_hu: Input should be a valid number, got True"),
        ("evaluate", "threshold", 1.5, "evaluate.threshold: .*got 1.5"),
        ("evaluate", "threshold_rule", "youden", "evaluate.threshold_rule: .*got 'youden'"),
        ("evaluate", "min_sensitivity", 0.0, "evaluate.min_sensitivity: .*got 0.0"),
        ("evaluate", "max_fps_per_scan", -1.0, "evaluate.max_fps_per_scan: .*got -1.0"),
        ("evaluate", "calibration_bins", 1, "evaluate.calibration_bins: .*got 1"),
        ("evaluate", "compare_with", "", "evaluate.compare_with: "),
        ("evaluate", "register", "lung/nodules", "evaluate.register: .*got 'lung/nodules'"),
        ("split", "folds", [0, 1, 0], "split.folds names a fold twice"),
        ("split", "folds", [10], "split.folds.0: .*got 10"),
        ("evaluate", "bootstraps", -1, "evaluate.bootstraps: .*got -1"),
        ("evaluate", "seed", 0.5, "evaluate.seed: .*got 0.5"),
        ("evaluate", "fps_per_scan", [1, 0.5], "evaluate.fps_per_scan must rise"),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_full_key(
    tmp_path: Path, section: str, key: str, value: Any, message: str
) -> None:
    changed = tree()
    changed[section][key] = value
    with pytest.raises(InputError, match=message) as caught:
        read_params(written(tmp_path, changed))
    assert "params.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", list(tree()))
def test_every_missing_parameter_is_named(tmp_path: Path, section: str) -> None:
    keys = tree()[section]
    with pytest.raises(InputError) as caught:
        read_params(written(tmp_path, tree() | {section: {}}))
    named = str(caught.value).partition("params.yaml: ")[2].split("; ")
    assert set(zip(named[::2], named[1::2], strict=True)) == {
        (f"{section}.{key}: missing parameter", "add it") for key in keys
    }


def test_an_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trian: unknown parameter"):
        read_params(written(tmp_path, {**tree(), "trian": {}}))


@pytest.mark.parametrize("text", ["- a list", "", "a: [", "\xff"])
def test_a_file_that_is_no_tree_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"params\.yaml: "):
        read_params(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: no such file"):
        read_params(tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("learning_rate: ", "learning_rate: 1e-3 # "))
    assert read_params(tmp_path / "params.yaml").train.learning_rate == 0.001


def test_params_cannot_be_changed() -> None:
    params = read_params(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.train.epochs = 3  # type: ignore[misc]


def test_flattened_has_every_parameter_by_its_full_key() -> None:
    flat = read_params(ROOT / "params.yaml").flattened()
    assert set(flat) == {f"{section}.{key}" for section, keys in tree().items() for key in keys}
    assert flat["crop.size_irc"] == [32, 48, 48]


@pytest.mark.parametrize("rule", ["sensitivity", "fps_per_scan"])
def test_a_threshold_by_scans_is_refused_where_nodules_are_told_apart(tmp_path: Path, rule: str) -> None:
    changed = tree()
    changed["evaluate"]["threshold_rule"] = rule
    read_params(written(tmp_path, changed))
    changed["model"]["task"] = "malignancy"
    with pytest.raises(InputError, match=f"params.yaml: evaluate.threshold_rule {rule} counts what is found in scans"):
        read_params(written(tmp_path, changed))
