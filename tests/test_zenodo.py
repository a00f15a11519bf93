import hashlib
import io
import json
import logging
import random
import shutil
import zipfile
from pathlib import Path

import pytest
from killing import killed_at
from server import Zenodo, say, served

from lunaops.errors import InputError
from lunaops.sources import zenodo
from lunaops.sources.staging import staged
from lunaops.subsets import RemoteFile

HEADER = (
    "ObjectType = Image\nNDims = 3\nDimSize = 64 64 32\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
    "ElementType = MET_SHORT\nElementDataFile = 1.1.raw\n"
)
VOXELS = random.Random(16).randbytes(64 * 64 * 32 * 2)
SCAN = {"1.1.mhd": HEADER.encode(), "1.1.raw": VOXELS}


def zipped(members: dict[str, bytes]) -> bytes:
    """Stored, so that the archive is as large as the scan and can be interrupted anywhere."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def remote(name: str, content: bytes, *, known: bool = True) -> RemoteFile:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return RemoteFile(name, 7, len(content) if known else None, digest if known else None)


@pytest.fixture
def server():
    with served() as server:
        yield server


class Fetch:
    """fetch_part against the server: the archive of subset0 holds SCAN unless the test says otherwise."""

    def __init__(self, server: Zenodo, tmp_path: Path) -> None:
        self.server, self.folder, self.archives = server, tmp_path / "part", tmp_path / "archives"
        self.archive = zipped({f"subset0/{name}": content for name, content in SCAN.items()})

    def __call__(
        self,
        archive: bytes | None = None,
        *,
        known: bool = True,
        keep_archives: bool = True,
    ) -> dict[str, bytes]:
        archive = self.archive if archive is None else archive
        files = {"subset0": (remote("subset0.zip", archive, known=known),)}
        if "subset0.zip" not in "".join(self.server.files):
            self.server.put("subset0.zip", archive)
        with staged(self.folder) as staging:
            zenodo.fetch_part(
                "subset0",
                staging,
                self.archives,
                previous=self.folder,
                base_url=self.server.url,
                files=files,
                pauses_s=(0.0, 0.0, 0.0),
            )
        if not keep_archives:
            zenodo.remove_archives("subset0", self.archives, files=files)
        return self.fetched()

    def fetched(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.glob("*")}


@pytest.fixture
def fetch(server, tmp_path):
    return Fetch(server, tmp_path)


@pytest.mark.parametrize("inner", ["", "subset0/", "./", "./subset0/"])
def test_a_subset_is_fetched_whether_its_archive_has_the_inner_folder_or_not(fetch, inner):
    folder = {inner: b""} if inner else {}
    assert fetch(zipped(folder | {inner + name: content for name, content in SCAN.items()})) == SCAN


def test_a_table_and_what_macos_adds_do_not_stand_in_the_way_of_scans(fetch):
    more = {
        "__MACOSX/subset0/._1.1.mhd": b"",
        "subset0/.DS_Store": b"",
        "subset0/._1.1.raw": b"",
        "subset0/a.csv": b"a",
    }
    scans = {f"subset0/{name}": content for name, content in SCAN.items()}
    assert fetch(zipped(scans | more)) == SCAN | {"a.csv": b"a"}


@pytest.mark.parametrize("base", ["", "/mirror", "/mirror/of/luna16"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_may_lie_deeper_and_its_address_may_end_in_a_slash(fetch, server, base, slash):
    server.files[f"{base}/records/7/files/subset0.zip?download=1"] = fetch.archive
    server.url = f"{server.origin}{base}{slash}"
    assert fetch() == SCAN


def test_a_kept_archive_is_not_downloaded_again(fetch, server):
    fetch()
    shutil.rmtree(fetch.folder)
    assert fetch() == SCAN
    assert len(server.ranges) == 1


def test_wrong_bytes_of_the_right_length_are_refused_and_removed_and_a_later_run_heals(fetch, server):
    server.faults = [say(fetch.archive[:-9] + b"#" * 9)]
    with pytest.raises(InputError, match="removed it; run again"):
        fetch()
    assert not list(fetch.archives.iterdir())
    assert not fetch.fetched()
    assert fetch() == SCAN


@pytest.mark.parametrize("damaged", [b"damaged", "other bytes of the same length"])
def test_a_kept_archive_that_is_not_the_published_one_is_downloaded_afresh(fetch, server, caplog, damaged):
    fetch.archives.mkdir()
    content = damaged if isinstance(damaged, bytes) else fetch.archive[:-9] + b"#" * 9
    (fetch.archives / "subset0.zip").write_bytes(content)
    assert fetch() == SCAN
    assert len(server.ranges) == 1
    assert f"has {len(content)} bytes with md5" in caplog.text


@pytest.mark.parametrize("content", [b"no archive at all", zipped(SCAN)[:-30], b""])
def test_what_is_no_whole_zip_is_refused_and_the_next_run_brings_it_afresh(fetch, server, content):
    with pytest.raises(InputError, match="damaged: File is not a zip file; removed it; run again"):
        fetch(content, known=False)
    assert not list(fetch.archives.iterdir()), "a later, whole one must not be held to it"
    server.put("subset0.zip", fetch.archive)
    assert fetch(known=False) == SCAN


def test_an_unknown_checksum_is_recorded_and_later_downloads_are_held_to_it(fetch, server, caplog):
    assert fetch(known=False, keep_archives=False) == SCAN
    assert "recorded this one" in caplog.text
    shutil.rmtree(fetch.folder)
    server.put("subset0.zip", fetch.archive + b"#")
    with pytest.raises(InputError, match=r"remove .*subset0\.json to accept a new version"):
        fetch(known=False)
    server.put("subset0.zip", fetch.archive)
    assert fetch(known=False) == SCAN
    assert caplog.text.count("recorded this one") == 1


def test_too_small_a_disk_is_told_before_anything_is_downloaded(fetch, server, tmp_path):
    huge = RemoteFile("subset0.zip", 7, 10**18, "0" * 32)
    with pytest.raises(InputError, match=r"needs 3e\+06 TB, but .* .B are free"):
        zenodo.fetch_part(
            "subset0",
            tmp_path,
            fetch.archives,
            previous=fetch.folder,
            base_url=server.url,
            files={"subset0": (huge,)},
        )
    assert server.ranges == []


@pytest.mark.parametrize("name", ["subset0/run.sh", "subset1/1.1.mhd", "subset0/a/1.1.mhd"])
def test_a_member_that_is_no_scan_of_the_part_is_refused(fetch, name):
    with pytest.raises(InputError, match=r"is no \.mhd, \.raw or \.csv of subset0"):
        fetch(zipped({name: b""}))


def test_an_archive_with_a_header_but_no_voxels_is_refused(fetch):
    with pytest.raises(InputError, match=r"^subset0\.zip/1\.1\.mhd: its voxels subset0\.zip/1\.1\.raw are missing"):
        fetch(zipped({"1.1.mhd": HEADER.encode()}))


@pytest.mark.parametrize("place", ["/etc/hostname", "../1.1.raw", "deeper/1.1.raw"])
def test_voxels_outside_of_the_part_are_refused(fetch, place):
    header = HEADER.replace("1.1.raw", place)
    with pytest.raises(InputError, match=rf"1\.1\.mhd of its archive has its voxels in .*{place}"):
        fetch(zipped(SCAN | {"1.1.mhd": header.encode()}))


def test_a_name_that_can_be_no_series_is_refused(fetch):
    with pytest.raises(InputError, match="has no place in a file name"):
        fetch(zipped({"1 1.mhd": HEADER.encode(), "1.1.raw": VOXELS}))
    assert not fetch.fetched()


def test_an_archive_without_scans_is_refused(fetch):
    with pytest.raises(InputError, match="subset0: its archive holds no scans"):
        fetch(zipped({}))


LABELS = {
    "annotations.csv": b"official",
    "evaluationScript.zip": zipped(
        {
            "evaluationScript/noduleCADEvaluationLUNA16.py": b"",
            "evaluationScript/annotations/annotations.csv": b"another copy",
            "evaluationScript/annotations/annotations_excluded.csv": b"excluded",
            "evaluationScript/annotations/seriesuids.csv": b"series",
        }
    ),
    "candidates.csv": b"candidates",
    "candidates_V2.zip": zipped({"candidates_V2.csv": b"candidates V2"}),
}
TABLES = {
    "annotations.csv": "official",
    "annotations_excluded.csv": "excluded",
    "seriesuids.csv": "series",
    "candidates.csv": "candidates",
    "candidates_V2.csv": "candidates V2",
}


@pytest.fixture
def fetch_labels(server, tmp_path):
    """Fetch LABELS, of which Zenodo publishes no checksum of the candidates; gives the tables."""
    files = tuple(remote(name, content, known="candidates" not in name) for name, content in LABELS.items())
    for name, content in LABELS.items():
        server.put(name, content)

    def fetch() -> dict[str, str]:
        with staged(tmp_path / "labels") as staging:
            zenodo.fetch_part(
                "labels",
                staging,
                tmp_path / "archives",
                previous=tmp_path / "labels",
                base_url=server.url,
                files={"labels": files},
            )
        zenodo.remove_archives("labels", tmp_path / "archives", files={"labels": files})
        return {path.name: path.read_text() for path in (tmp_path / "labels").iterdir()}

    return fetch


def test_the_labels_are_the_tables_out_of_files_and_archives(fetch_labels, tmp_path):
    assert fetch_labels() == TABLES
    assert [path.name for path in (tmp_path / "archives").iterdir()] == ["labels.json"]


def test_an_archive_of_tables_that_lacks_one_is_refused(server, tmp_path):
    archive = zipped({"annotations/annotations_excluded.csv": b""})
    server.put("evaluationScript.zip", archive)
    with pytest.raises(InputError, match=r"lacks one of annotations_excluded\.csv, seriesuids\.csv"):
        zenodo.fetch_part(
            "labels",
            tmp_path,
            tmp_path / "archives",
            previous=tmp_path / "labels",
            base_url=server.url,
            files={"labels": (remote("evaluationScript.zip", archive),)},
        )


@pytest.mark.parametrize("known", [True, False])
def test_a_second_fetch_makes_no_request_and_links_what_is_there(fetch, server, caplog, known):
    caplog.set_level(logging.INFO)
    fetch(known=known, keep_archives=False)
    inodes = {path.name: path.stat().st_ino for path in fetch.folder.iterdir()}
    assert fetch(known=known, keep_archives=False) == SCAN
    assert {path.name: path.stat().st_ino for path in fetch.folder.iterdir()} == inodes
    assert len(server.ranges) == 1
    assert caplog.text.count("subset0.zip: not downloaded: the 2 files") == 1


def test_the_labels_are_not_asked_for_again_either(fetch_labels, server):
    assert fetch_labels() == fetch_labels() == TABLES
    assert len(server.ranges) == 4


def test_of_the_labels_only_what_a_damaged_table_came_from_is_downloaded_again(fetch_labels, server, tmp_path):
    fetch_labels()
    (tmp_path / "labels" / "seriesuids.csv").write_text("Series")
    assert fetch_labels() == TABLES
    assert len(server.ranges) == 5


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "1.1.raw is missing"),
        (lambda path: path.write_bytes(VOXELS[:-1]), "1.1.raw has 262143 bytes, it was unpacked with 262144"),
        (lambda path: path.write_bytes(VOXELS[:-1] + b"#"), "1.1.raw has other bytes than it was unpacked with"),
    ],
)
@pytest.mark.parametrize(("keep", "requests"), [(False, 2), (True, 1)])
def test_a_damaged_file_is_unpacked_afresh_out_of_the_kept_archive_or_a_new_one(
    fetch, server, caplog, damage, said, keep, requests
):
    fetch(keep_archives=keep)
    damage(fetch.folder / "1.1.raw")
    assert fetch(keep_archives=keep) == SCAN
    assert len(server.ranges) == requests
    assert said in caplog.text


def test_the_folder_of_another_source_is_not_taken_for_zenodo_s(fetch, server):
    fetch(keep_archives=False)
    shutil.rmtree(fetch.folder)
    fetch.folder.mkdir()
    (fetch.folder / "1.1.mhd").write_text(HEADER.replace("1.1.raw", "/elsewhere/1.1.raw"))
    (fetch.folder / "1.2.mhd").write_text("of the other source")
    assert fetch(keep_archives=False) == SCAN
    assert len(server.ranges) == 2


def test_a_file_that_was_not_unpacked_does_not_stay_among_those_that_were(fetch, server):
    fetch()
    (fetch.folder / "1.2.mhd").write_text("of another source")
    assert fetch() == SCAN


def test_another_published_archive_is_fetched_although_what_the_old_one_held_is_there(fetch, server):
    fetch(keep_archives=False)
    new = zipped({**SCAN, "1.2.mhd": HEADER.encode()})
    server.put("subset0.zip", new)
    assert set(fetch(new, keep_archives=False)) == {*SCAN, "1.2.mhd"}


def test_a_table_that_is_wanted_since_then_is_fetched(fetch_labels, server, tmp_path):
    fetch_labels()
    receipts = json.loads((tmp_path / "archives" / "labels.json").read_text())
    del receipts["evaluationScript.zip"]["files"]["seriesuids.csv"]
    (tmp_path / "archives" / "labels.json").write_text(json.dumps(receipts))
    assert fetch_labels() == TABLES
    assert len(server.ranges) == 5


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"subset0.zip": {"md5": "0"}}', '{"subset0.zip": 1}', "\xff"])
def test_a_receipt_that_is_none_is_ignored_with_a_line(fetch, server, caplog, text):
    fetch(keep_archives=False)
    (fetch.archives / "subset0.json").write_text(text, encoding="latin-1")
    assert fetch(keep_archives=False) == SCAN
    assert len(server.ranges) == 2
    assert "subset0.json: ignored, for it is no list of what was unpacked" in caplog.text


def test_a_failed_fetch_leaves_no_receipt(fetch):
    with pytest.raises(InputError, match=r"^subset0\.zip/1\.1\.mhd: its voxels subset0\.zip/1\.1\.raw are missing"):
        fetch(zipped({"1.1.mhd": HEADER.encode()}))
    assert not (fetch.archives / "subset0.json").exists()


def test_a_download_stays_until_what_it_held_is_in_its_place(fetch, server):
    """A process that is killed before the rename must not have to download again."""
    fetch.server.put("subset0.zip", fetch.archive)
    files = {"subset0": (remote("subset0.zip", fetch.archive),)}
    with pytest.raises(KeyboardInterrupt), staged(fetch.folder) as staging:
        zenodo.fetch_part("subset0", staging, fetch.archives, previous=fetch.folder, base_url=server.url, files=files)
        raise KeyboardInterrupt
    assert fetch(keep_archives=False) == SCAN
    assert len(server.ranges) == 1
    assert [path.name for path in fetch.archives.iterdir()] == ["subset0.json"]


def test_killed_before_any_change_of_the_disk_the_next_run_completes_and_nothing_is_left(fetch, server, tmp_path):
    """Also what an earlier run fetched is there, whole, until the new part is."""
    new = zipped({**SCAN, "1.2.mhd": HEADER.encode()})
    change = 0
    while True:
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        server.files.clear()
        assert fetch(keep_archives=False) == SCAN
        server.put("subset0.zip", new)
        if not killed_at(change, lambda: fetch(new, keep_archives=False)):
            break
        change += 1
        aside = tmp_path / ".part.replaced"
        assert set(fetch.fetched() or {path.name for path in aside.iterdir()}) in (set(SCAN), {*SCAN, "1.2.mhd"})
        came = (fetch.archives / "subset0.zip").exists() or "1.2.mhd" in fetch.fetched()
        requests = len(server.ranges)
        assert fetch(new, keep_archives=False) == {**SCAN, "1.2.mhd": HEADER.encode()}
        assert len(server.ranges) == requests or not came, "what came is not downloaded again"
        left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.parent != fetch.folder)
        assert left == ["archives", "archives/subset0.json", "part"]
    assert change > 12
