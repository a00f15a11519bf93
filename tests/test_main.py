import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import ROOT, write_scan
from ruamel.yaml import YAML
from typer.testing import CliRunner

from lunaops.__main__ import app
from lunaops.errors import InputError
from lunaops.model import LunaModel, read_model
from stages import build_cache, merge_annotations

pytestmark = pytest.mark.slow

CANDIDATES = "1.5,8,8,8,1\n1.5,2,2,2,0\n2.5,3,3,3,0\n3.5,3,3,3,0\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    (raw / "labels").mkdir(parents=True)
    (raw / "labels" / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.5,8,8,8,6\n")
    (raw / "labels" / "candidates.csv").write_text("seriesuid,coordX,coordY,coordZ,class\n" + CANDIDATES)
    for series, subset in (("1.5", "subset0"), ("2.5", "subset3"), ("3.5", "subset4")):
        write_scan(raw / subset / f"{series}.mhd", np.full((16, 16, 16), -800))
    merge_annotations.main(
        raw=raw,
        scans=tmp_path / "scans.csv",
        nodules=tmp_path / "nodules.parquet",
        excluded=tmp_path / "excluded.parquet",
        candidates=tmp_path / "candidates.parquet",
        report=tmp_path / "data.json",
        picture=tmp_path / "data.png",
        params_file=ROOT / "params.yaml",
    )
    return tmp_path


def call(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def test_summary_counts_splits_and_classes_and_lists_positives_by_size(data: Path) -> None:
    lines = [line.split() for line in call("summary", "--data", str(data)).splitlines()]
    assert ["train", "1", "0", "1", "0", "0", "2", "1", "1"] in lines
    assert ["all", "3", "2", "1", "0", "0", "4", "1", "3"] in lines
    assert ["0", "6.0", "mm", "1.5"] in lines


def test_show_writes_a_picture_of_the_candidate(data: Path) -> None:
    assert call("show", "1.5", "--candidate", "0", "--out", str(data / "a.png"), "--data", str(data)).strip()
    assert matplotlib.image.imread(data / "a.png").shape[0] > 500
    with pytest.raises(InputError, match=r"--out .*a\.pdf: .* let its name end in \.png"):
        call("show", "1.5", "--out", str(data / "a.pdf"), "--data", str(data))


def test_a_scan_may_be_named_by_the_end_of_its_id_if_that_is_one(data: Path) -> None:
    call("show", "2.5", "--out", str(data / "b.png"), "--data", str(data))
    assert (data / "b.png").exists()
    with pytest.raises(InputError, match=r"series \.5: 3 scans? on disk ends? so: 1\.5, 2\.5, 3\.5"):
        call("show", ".5", "--data", str(data))


def test_metrics_are_printed_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"test": {"cpm": 0.75, "pr/precision": null}}')
    lines = [line.split() for line in call("metrics", "--reports", str(tmp_path)).splitlines()]
    assert lines == [["test", "cpm", "0.75"], ["test", "pr/precision", "undefined"]]


def test_an_unknown_scan_or_candidate_is_named(data: Path) -> None:
    with pytest.raises(InputError, match="series 9: no scan on disk ends so"):
        call("show", "9", "--data", str(data))
    with pytest.raises(InputError, match=r"--candidate 77 is not one of scan 1\.5; its first are 0, 3"):
        call("show", "1.5", "--candidate", "77", "--data", str(data))


def test_show_augmented_draws_a_candidate_and_its_variations(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNAOPS_CACHE_DIR", str(data / "cache"))
    tree = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    tree["augment"] = {"flip": True, "offset_mm": 2.0, "scale": 0.1, "rotate_degrees": 180.0, "noise_hu": 25.0}
    tree["crop"]["workers"] = 1
    params = data / "params.yaml"
    with params.open("w") as file:
        YAML(typ="safe").dump(tree, file)
    tables = {"scans": data / "scans.csv", "candidates": data / "candidates.parquet", "manifest": data / "crops.json"}
    build_cache.main(raw=data / "raw", **tables, params_file=params)

    def picture(name: str, *more: str) -> bytes:
        arguments = ["--params-file", str(params), "--data", str(data), "--num", "1", *more]
        assert call("show-augmented", "--out", str(data / name), *arguments).strip() == str(data / name)
        return (data / name).read_bytes()

    first = picture("a.png")
    assert picture("again.png") == first
    assert picture("other.png", "--seed", "1") != first
    assert picture("second.png", "--candidate", "1") != first
    with pytest.raises(InputError, match=r"--candidate 77 is not in .*candidates.parquet, which has 4"):
        picture("none.png", "--candidate", "77")


def test_import_weights_writes_a_folder_that_rebuilds_the_model(tmp_path: Path) -> None:
    model = LunaModel((16, 16, 32), 2)
    torch.save({"model_state": model.state_dict()}, tmp_path / "cls.state")
    said = call("import-weights", str(tmp_path / "cls.state"), str(tmp_path / "best"), "--crop-size", "16", "16", "32")
    assert said.strip() == f"{tmp_path / 'best'}: 2 channels, crops of 16 x 16 x 32 voxels"
    again = read_model(tmp_path / "best")
    hu = torch.randn(1, 1, 16, 16, 32)
    assert torch.equal(again.eval()(hu)[0], model.eval()(hu)[0])
    assert json.loads((tmp_path / "best" / "model.json").read_text())["imported"]["file"] == "cls.state"


def test_import_weights_replaces_files_that_it_could_not_write_to(tmp_path: Path) -> None:
    torch.save(LunaModel((16, 16, 16), 2).state_dict(), tmp_path / "cls.state")
    weights = tmp_path / "best" / "weights.safetensors"
    weights.parent.mkdir()
    weights.symlink_to(weights.name)  # leads to itself: opening it fails even for a superuser
    call("import-weights", str(tmp_path / "cls.state"), str(weights.parent), "--crop-size", "16", "16", "16")
    assert read_model(weights.parent).channels == 2


def test_import_weights_makes_no_folder_where_there_is_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none.state: no such file"):
        call("import-weights", str(tmp_path / "none.state"), str(tmp_path / "models" / "new"))
    assert list(tmp_path.iterdir()) == []


def test_import_weights_says_in_a_line_where_it_cannot_write(tmp_path: Path) -> None:
    torch.save(LunaModel((16, 16, 16), 2).state_dict(), tmp_path / "cls.state")
    with pytest.raises(InputError, match=r"^[^\n]*cls.state/model/weights.safetensors: cannot be written: [^\n]*$"):
        call(
            "import-weights",
            *(str(tmp_path / name) for name in ("cls.state", "cls.state/model")),
            "--crop-size",
            "16",
            "16",
            "16",
        )


@pytest.mark.parametrize("size", ["15", "513"])
def test_import_weights_takes_the_crop_sizes_that_params_yaml_takes(tmp_path: Path, size: str) -> None:
    said = call("import-weights", str(tmp_path / "cls.state"), str(tmp_path / "best"), "--crop-size", "16", size, "16")
    assert "Invalid value for '--crop-size'" in said
