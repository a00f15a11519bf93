import io
import subprocess
import sys
import zipfile
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from conftest import write_scan, write_series
from ruamel.yaml import YAML
from server import served

from lunaops.ct import raw_path, read_ct
from lunaops.errors import InputError
from lunaops.subsets import LUNA16, RemoteFile, find_scans
from stages import merge_annotations
from stages.fetch_subsets import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fetch(tmp_path):
    """Fetch a part with the project's params.yaml but for the given keys of its sections; gives the raw folder."""

    def fetch(part: str, **sections: dict[str, object]) -> Path:
        yaml = YAML()
        tree = yaml.load(ROOT / "params.yaml")
        for section, values in sections.items():
            tree[section].update(values)
        yaml.dump(tree, tmp_path / "params.yaml")
        main(part, tmp_path / "raw" / part, tmp_path / "archives", params_file=tmp_path / "params.yaml")
        return tmp_path / "raw"

    return fetch


def test_the_default_source_makes_a_part_of_the_phantom(fetch):
    phantom = {"scans_per_subset": 1}
    (scan,) = find_scans(fetch("subset1", fetch={"source": "phantom"}, phantom=phantom))
    assert scan.subset == "subset1"
    labels = fetch("labels", fetch={"source": "phantom"}, phantom=phantom) / "labels"
    assert scan.series_uid in (labels / "seriesuids.csv").read_text()


def test_the_directory_source_links_the_user_s_scans(fetch, slabs):
    raw = fetch("subset3", fetch={"source": "directory", "directory": str(slabs)})
    assert [path.suffix for path in (raw / "subset3").iterdir()] == [".mhd"]
    assert [scan.subset for scan in find_scans(raw)] == ["subset3"]


def test_the_directory_source_copies_where_it_is_asked_to(fetch, slabs):
    raw = fetch("subset3", fetch={"source": "directory", "directory": str(slabs), "copy_scans": True})
    assert sorted(path.suffix for path in (raw / "subset3").iterdir()) == [".mhd", ".raw"]
    assert raw_path(find_scans(raw)[0].path).parent == raw / "subset3"


def test_the_directory_source_makes_scans_of_dicom_and_leaves_no_part_where_it_cannot(fetch, tmp_path):
    files = write_series(tmp_path / "user", np.arange(60, dtype=np.int16).reshape(5, 3, 4))
    raw = fetch("subset0", fetch={"source": "directory", "directory": str(tmp_path / "user")})
    assert [(scan.series_uid, scan.subset) for scan in find_scans(raw)] == [("1.2.3", "subset0")]
    before = read_ct(raw / "subset0/1.2.3.mhd", (-32768, 32767)).hu.tolist()
    files[2].unlink()
    with pytest.raises(InputError, match=r"series 1\.2\.3: 1 slice\(s\) are missing"):
        fetch("subset0", fetch={"source": "directory", "directory": str(tmp_path / "user")})
    assert [path.name for path in raw.iterdir()] == ["subset0"]
    assert read_ct(raw / "subset0/1.2.3.mhd", (-32768, 32767)).hu.tolist() == before


def test_labels_may_lie_in_another_folder_than_the_scans(fetch, slabs):
    labels = str(slabs.parent / "luna16-labels")
    raw = fetch("labels", fetch={"source": "directory", "directory": str(slabs), "labels_directory": labels})
    assert {"annotations.csv", "candidates.csv"} <= {path.name for path in (raw / "labels").iterdir()}


def test_a_mirror_that_lacks_luna16_is_one_line_and_leaves_no_part(fetch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as mirror:
        thread = Thread(target=partial(mirror.serve_forever, poll_interval=0.01))
        thread.start()
        url = f"http://127.0.0.1:{mirror.server_address[1]}"
        with pytest.raises(InputError, match=r"records/3723295/files/annotations\.csv\?download=1: .* answers 404"):
            fetch("labels", fetch={"source": "zenodo", "base_url": url})
        mirror.shutdown()
        thread.join()
    assert not list((tmp_path / "raw").iterdir())


TABLES = {
    "annotations.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm\n1,8,8,8,6\n",
    "annotations_excluded.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm\n",
    "seriesuids.csv": "1\n2\n3\n",
    "candidates.csv": "seriesuid,coordX,coordY,coordZ,class\n1,8,8,8,1\n2,4,4,4,0\n3,4,4,4,0\n",
    "candidates_V2.csv": "seriesuid,coordX,coordY,coordZ,class\n1,8,8,8,1\n1,3,3,3,0\n2,4,4,4,0\n3,4,4,4,0\n",
}


def packed(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of a LUNA16 of three scans and TABLES, whose sizes and checksums are published in place of the real."""
    content = {
        "annotations.csv": TABLES["annotations.csv"].encode(),
        "evaluationScript.zip": packed(
            {f"a/{name}": TABLES[name].encode() for name in ("annotations_excluded.csv", "seriesuids.csv")}
        ),
        "candidates.csv": TABLES["candidates.csv"].encode(),
        "candidates_V2.zip": packed({"candidates_V2.csv": TABLES["candidates_V2.csv"].encode()}),
    }
    for series_uid, subset in (("1", "subset0"), ("2", "subset3"), ("3", "subset4")):
        path = write_scan(tmp_path / "scans" / f"{series_uid}.mhd", np.zeros((16, 16, 16)))
        content[f"{subset}.zip"] = packed(
            {f"{subset}/{file.name}": file.read_bytes() for file in (path, path.with_suffix(".raw"))}
        )
    with served() as server:
        for part in ("labels", "subset0", "subset3", "subset4"):
            files = [file.name for file in LUNA16[part]]
            for name in files:
                server.put(name, content[name])
            published = (RemoteFile(name, 7, len(content[name]), md5(content[name]).hexdigest()) for name in files)
            monkeypatch.setitem(LUNA16, part, tuple(published))
        yield server


@pytest.mark.parametrize(("candidates", "num_candidates"), [("candidates", 3), ("candidates_V2", 4)])
def test_the_candidates_that_are_asked_for_come_from_zenodo_into_the_table(
    fetch, mirror, tmp_path, candidates, num_candidates
):
    parts = ["labels", "subset0", "subset3", "subset4"]
    chosen = {"source": "zenodo", "base_url": f"{mirror.url}/", "parts": parts, "candidates": candidates}
    for part in parts:
        raw = fetch(part, fetch=chosen)
    assert {path.name: path.read_text() for path in (raw / "labels").iterdir()} == TABLES
    out = {name: tmp_path / f"{name}.parquet" for name in ("nodules", "excluded", "candidates")}
    merge_annotations.main(
        raw,
        tmp_path / "scans.csv",
        **out,
        report=tmp_path / "data.json",
        picture=tmp_path / "data.png",
        params_file=tmp_path / "params.yaml",
    )
    assert len(pd.read_parquet(out["candidates"])) == num_candidates
    assert sorted(path.suffix for path in (tmp_path / "archives").iterdir()) == [".json"] * 4


@pytest.mark.parametrize("keep", [True, False])
def test_archives_are_kept_where_the_user_wants_it(fetch, mirror, tmp_path, keep):
    fetch("subset0", fetch={"source": "zenodo", "base_url": mirror.url, "keep_archives": keep})
    assert (tmp_path / "archives" / "subset0.zip").exists() == keep


def test_a_part_that_luna16_lacks_is_refused(fetch):
    with pytest.raises(InputError, match=r"--part subset10: no such part; LUNA16 has labels, subset0"):
        fetch("subset10")


def test_a_user_s_mistake_is_one_line_and_no_traceback(tmp_path):
    arguments = ["--part", "subset10", "--folder", str(tmp_path / "x"), "--archives", str(tmp_path / "y")]
    done = subprocess.run(
        [sys.executable, "-m", "stages.fetch_subsets", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --part subset10")
    assert done.stderr.count("\n") == 1
