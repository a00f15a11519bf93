import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from conftest import write_series
from ruamel.yaml import YAML

from lunaops.ct import raw_path, read_ct
from lunaops.errors import InputError
from lunaops.subsets import find_scans
from stages.fetch_subsets import main

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


@pytest.mark.slow
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
