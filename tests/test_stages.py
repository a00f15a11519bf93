"""The stage scripts as programs: their help, what they import, what they say of bad input."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, write_scan
from pipeline import script_of, stages

from stages import merge_annotations

pytestmark = pytest.mark.slow

LABELS = {
    "annotations.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm\n1,8,8,8,6\n",
    "candidates.csv": "seriesuid,coordX,coordY,coordZ,class\n1,8,8,8,1\n1,2,2,2,0\n2,3,3,3,0\n3,3,3,3,0\n",
}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stage", ["merge-annotations", "fetch-subsets", "evaluate"])
def test_help_names_every_option_that_dvc_yaml_gives(stage: str) -> None:
    done = python("-m", f"stages.{script_of(stage).stem}", "--help")
    assert done.returncode == 0
    for word in stages()[stage]["cmd"].split():
        if word.startswith("--"):
            assert word in done.stdout


@pytest.mark.parametrize("stage", ["fetch_subsets", "merge_annotations", "build_cache", "evaluate"])
def test_a_quick_stage_imports_neither_torch_nor_mlflow(stage: str) -> None:
    done = python("-c", f"import sys, stages.{stage}; print({{'torch', 'mlflow'}} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name, text in LABELS.items():
        (tmp_path / "raw" / "labels").mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / "labels" / name).write_text(text)
    for series, subset in (("1", "subset0"), ("2", "subset3"), ("3", "subset4")):
        write_scan(tmp_path / "raw" / subset / f"{series}.mhd", np.zeros((16, 16, 16)))
    return tmp_path / "raw"


def merge(raw: Path) -> subprocess.CompletedProcess[str]:
    out = raw.parent / "out"
    paths = {name: str(out / f"{name}.parquet") for name in ("nodules", "excluded", "candidates")}
    options = {
        "raw": str(raw),
        "scans": str(out / "scans.csv"),
        "report": str(out / "data.json"),
        "picture": str(out / "data.png"),
        **paths,
    }
    return python("-m", "stages.merge_annotations", *[text for k, v in options.items() for text in (f"--{k}", v)])


def test_merge_writes_the_same_bytes_twice(raw: Path) -> None:
    def merged(name: str) -> dict[str, bytes]:
        out = raw.parent / name
        merge_annotations.main(
            raw=raw,
            scans=out / "scans.csv",
            nodules=out / "nodules.parquet",
            excluded=out / "excluded.parquet",
            candidates=out / "candidates.parquet",
            report=out / "data.json",
            picture=out / "data.png",
            params_file=ROOT / "params.yaml",
        )
        return {path.name: path.read_bytes() for path in out.iterdir()}

    assert merged("a") == merged("b")


def no_scans(raw: Path) -> None:
    for path in raw.glob("subset*/*"):
        path.unlink()


def twice(raw: Path) -> None:
    write_scan(raw / "subset3" / "1.mhd", np.zeros((16, 16, 16)))


def short_raw(raw: Path) -> None:
    (raw / "subset0" / "1.raw").write_bytes(b"\0\0")


def text_for_a_number(raw: Path) -> None:
    (raw / "labels" / "candidates.csv").write_text(LABELS["candidates.csv"].replace("2,2,2", "2,two,2"))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (no_scans, "a source directory without scans"),
        (twice, "1"),
        (short_raw, "too short: 2 bytes, its header wants 8192"),
        (text_for_a_number, "candidates.csv, line 3: coordY must be a number, got 'two'"),
        (lambda raw: (raw / "labels" / "annotations.csv").unlink(), "annotations.csv: no such file"),
        (lambda raw: (raw / "subset0" / "1.raw").unlink(), "1.raw"),
    ],
)
def test_bad_input_is_one_clear_line_and_no_table(raw: Path, break_it, message: str) -> None:
    break_it(raw)
    done = merge(raw)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (raw.parent / "out").exists()
