import functools
import hashlib
import io
import json
import logging
import random
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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


class Zenodo(ThreadingHTTPServer):
    """A server of files by path that misbehaves once for each fault in its list, then serves well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Callable[[_Handler, bytes], None]] = []
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/mirror"

    def put(self, name: str, content: bytes) -> None:
        self.files[f"/mirror/records/7/files/{name}?download=1"] = content


class _Handler(BaseHTTPRequestHandler):
    server: Zenodo

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
        elif self.server.faults:
            self.server.faults.pop(0)(self, content)
        else:
            serve(self, content)

    def log_message(self, *args: object) -> None:
        pass


def serve(handler: _Handler, content: bytes, *, stop: int | None = None, extra: int = 0) -> None:
    """Serve the range asked for, up to `stop` bytes of it, promising `extra` bytes more."""
    asked = handler.headers["Range"]
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    if start >= len(content) and asked:
        handler.send_error(416)
        return
    handler.send_response(206 if asked else 200)
    if asked:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - start + extra))
    handler.end_headers()
    handler.wfile.write(content[start:][:stop])


def ignore_range(handler: _Handler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def drop_after(num_bytes: int) -> Callable[[_Handler, bytes], None]:
    return functools.partial(serve, stop=num_bytes)


def answer(status: int, **headers: str) -> Callable[[_Handler, bytes], None]:
    def fault(handler: _Handler, content: bytes) -> None:
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


def say(other: bytes) -> Callable[[_Handler, bytes], None]:
    return lambda handler, content: serve(handler, other)


@pytest.fixture
def server():
    with Zenodo() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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
        pauses_s: tuple[float, ...] = (0.0, 0.0, 0.0),
    ) -> dict[str, bytes]:
        archive = self.archive if archive is None else archive
        if "subset0.zip" not in "".join(self.server.files):
            self.server.put("subset0.zip", archive)
        with staged(self.folder) as staging:
            zenodo.fetch_part(
                "subset0",
                staging,
                self.archives,
                previous=self.folder,
                base_url=self.server.url,
                keep_archives=keep_archives,
                files={"subset0": (remote("subset0.zip", archive, known=known),)},
                pauses_s=pauses_s,
            )
        return self.fetched()

    def fetched(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.glob("*")}


@pytest.fixture
def fetch(server, tmp_path):
    return Fetch(server, tmp_path)


@pytest.mark.parametrize("inner", ["", "subset0/"])
def test_a_subset_is_fetched_whether_its_archive_has_the_inner_folder_or_not(fetch, inner):
    assert (
        fetch(zipped({inner: b"", **{inner + name: content for name, content in SCAN.items()}} if inner else SCAN))
        == SCAN
    )


def test_compressed_archives_are_unpacked(fetch):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in SCAN.items():
            archive.writestr(name, content)
    assert fetch(sink.getvalue()) == SCAN


@pytest.mark.parametrize("keep", [True, False])
def test_the_archive_is_kept_only_when_asked(fetch, keep):
    fetch(keep_archives=keep)
    assert (fetch.archives / "subset0.zip").exists() == keep


def test_a_kept_archive_is_not_downloaded_again(fetch, server):
    fetch()
    shutil.rmtree(fetch.folder)
    assert fetch() == SCAN
    assert len(server.ranges) == 1


def test_a_dropped_connection_is_resumed_where_it_broke(fetch, server):
    server.faults = [drop_after(100_000), drop_after(65_000), drop_after(65_536)]
    assert fetch() == SCAN
    assert server.ranges == [None, "bytes=65536-", "bytes=65536-", "bytes=131072-"]


def test_drops_that_bring_bytes_do_not_use_up_the_pauses(fetch, server):
    server.faults = [drop_after(70_000), answer(503), drop_after(70_000), answer(503)]
    assert fetch(pauses_s=(0.0, 0.0)) == SCAN


def test_a_server_that_ignores_the_range_starts_the_file_again(fetch, server):
    server.faults = [drop_after(70_000), ignore_range]
    assert fetch() == SCAN
    assert server.ranges == [None, "bytes=65536-"]


def test_a_later_process_goes_on_with_what_an_earlier_one_left(fetch, server):
    fetch.archives.mkdir()
    (fetch.archives / "subset0.zip.part").write_bytes(fetch.archive[:1000])
    assert fetch() == SCAN
    assert server.ranges == ["bytes=1000-"]
    assert not (fetch.archives / "subset0.zip.part").exists()


def test_a_complete_but_unchecked_download_is_not_asked_for_again(fetch, server):
    fetch.archives.mkdir()
    (fetch.archives / "subset0.zip.part").write_bytes(fetch.archive)
    assert fetch() == SCAN
    assert server.ranges == []


def test_a_server_without_the_range_of_a_stale_download_starts_it_again(fetch, server):
    fetch.archives.mkdir()
    (fetch.archives / "subset0.zip.part").write_bytes(bytes(len(fetch.archive) + 5))
    server.faults = [answer(416)]
    assert fetch(known=False) == SCAN


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(fetch, server, status):
    server.faults = [answer(status)] * 3
    assert fetch() == SCAN


def test_the_server_s_retry_after_lengthens_the_pause(fetch, server, caplog):
    server.faults = [answer(429, Retry_After="1")]
    assert fetch() == SCAN
    assert "again in 1 s" in caplog.text


def test_pauses_grow_and_end_in_one_line(fetch, server, caplog):
    server.faults = [answer(503)] * 9
    with pytest.raises(InputError, match=r"subset0\.zip.*answers 503; gave up after 3 tries; run again") as error:
        fetch(pauses_s=(0.01, 0.02))
    assert "\n" not in str(error.value)
    assert [f"again in {pause} s" in caplog.text for pause in ("0.01", "0.02")] == [True, True]


def test_a_later_run_finishes_what_was_given_up(fetch, server):
    server.faults = [drop_after(70_000), answer(503), answer(503)]
    with pytest.raises(InputError, match="gave up"):
        fetch(pauses_s=(0.0,))
    assert fetch() == SCAN
    assert server.ranges[-1] == "bytes=65536-"


def test_nobody_there_is_one_line(fetch, server):
    server.url = "http://127.0.0.1:9"
    with pytest.raises(InputError, match=r"connection lost \(ConnectionError\); gave up after 2 tries"):
        fetch(pauses_s=(0.0,))


def test_a_file_that_is_not_there_is_one_line_at_once(fetch, server):
    server.put("subset0.zip.gone", b"")
    with pytest.raises(InputError, match=r"answers 404 Not Found; fetch\.base_url must lead to Zenodo"):
        fetch()
    assert len(server.ranges) == 1


def test_wrong_bytes_of_the_right_length_are_refused_and_removed_and_a_later_run_heals(fetch, server):
    server.faults = [say(fetch.archive[:-9] + b"#" * 9)]
    with pytest.raises(InputError, match="removed it; run again"):
        fetch()
    assert not list(fetch.archives.iterdir())
    assert not fetch.fetched()
    assert fetch() == SCAN


def test_a_server_that_sends_more_than_the_size_is_refused_before_it_fills_the_disk(fetch, server):
    size = len(fetch.archive)
    server.faults = [say(fetch.archive + bytes(1 << 22))]
    with pytest.raises(InputError, match=r"got \d+ bytes") as error:
        fetch()
    assert size < int(str(error.value).split("got ")[1].split()[0]) < size + (1 << 17)


def test_a_size_is_held_to_where_no_checksum_is_known(fetch, server, tmp_path):
    server.put("subset0.zip", fetch.archive + b"#")
    with pytest.raises(InputError, match=f"got {len(fetch.archive) + 1} bytes .* wanted {len(fetch.archive)}"):
        zenodo.fetch_part(
            "subset0",
            tmp_path,
            fetch.archives,
            previous=fetch.folder,
            base_url=server.url,
            keep_archives=False,
            files={"subset0": (RemoteFile("subset0.zip", 7, len(fetch.archive), None),)},
        )


def test_a_response_without_a_length_that_ends_early_is_resumed(fetch, server):
    def end_early(handler: _Handler, content: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content[:70_000])

    server.faults = [end_early]
    assert fetch() == SCAN
    assert server.ranges == [None, "bytes=70000-"]


def test_a_length_that_is_a_lie_ends_in_the_right_file(fetch, server):
    server.faults = [functools.partial(serve, extra=10)]
    assert fetch() == SCAN


def test_a_kept_archive_that_was_damaged_is_refused_and_then_fetched_again(fetch):
    fetch.archives.mkdir()
    (fetch.archives / "subset0.zip").write_bytes(b"damaged")
    with pytest.raises(InputError, match="got 7 bytes"):
        fetch()
    assert fetch() == SCAN


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
    with pytest.raises(InputError, match=r"needs 3e\+09 GB, but .* GB are free"):
        zenodo.fetch_part(
            "subset0",
            tmp_path,
            fetch.archives,
            previous=fetch.folder,
            base_url=server.url,
            keep_archives=False,
            files={"subset0": (huge,)},
        )
    assert server.ranges == []


@pytest.mark.parametrize(
    "name", ["../1.1.mhd", "/1.1.mhd", "subset0/../../1.1.mhd", "..\\1.1.mhd", "C:1.1.mhd", "subset0\\1.1.mhd"]
)
def test_a_member_that_would_leave_the_folder_is_refused(fetch, name, tmp_path):
    with pytest.raises(InputError, match="leads out of the folder"):
        fetch(zipped({**SCAN, name: b""}))
    assert not fetch.fetched()


def test_a_link_in_an_archive_is_refused(fetch):
    sink = io.BytesIO()
    link = zipfile.ZipInfo("subset0/1.2.raw")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(InputError, match="leads out of the folder"):
        fetch(sink.getvalue())


@pytest.mark.parametrize("name", ["subset0/run.sh", "subset1/1.1.mhd", "subset0/a/1.1.mhd"])
def test_a_member_that_is_no_scan_of_the_part_is_refused(fetch, name):
    with pytest.raises(InputError, match=r"is no \.mhd or \.raw of subset0"):
        fetch(zipped({name: b""}))


def test_one_name_twice_in_an_archive_is_refused(fetch):
    with pytest.raises(InputError, match=r"holds .*1\.1\.mhd twice"):
        fetch(zipped({**SCAN, "subset0/1.1.mhd": b""}))


def test_a_member_whose_bytes_do_not_fit_its_checksum_is_refused(fetch):
    at = fetch.archive.index(VOXELS[:100])
    with pytest.raises(InputError, match="damaged: Bad CRC-32"):
        fetch(fetch.archive[:at] + b"#" + fetch.archive[at + 1 :])


@pytest.mark.parametrize("content", [b"no archive at all", zipped(SCAN)[:-30]])
def test_what_is_no_whole_zip_is_refused(fetch, content):
    with pytest.raises(InputError, match="damaged: File is not a zip file"):
        fetch(content, known=False)
    assert not (fetch.archives / "subset0.json").exists(), "a later, whole one must not be held to it"


def test_a_compression_that_python_does_not_know_names_the_tool_that_does(fetch):
    archive = bytearray(zipped(SCAN))
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # Deflate64 is method 9
        at = archive.index(mark) + offset
        archive[at : at + 2] = (9).to_bytes(2, "little")
    with pytest.raises(InputError, match=r"7z x .*subset0\.zip.*fetch\.source: directory"):
        fetch(bytes(archive))


def test_an_archive_with_a_header_but_no_voxels_is_refused(fetch):
    with pytest.raises(InputError, match=r"1\.1\.raw.* missing"):
        fetch(zipped({"1.1.mhd": HEADER.encode()}))


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
                keep_archives=False,
                files={"labels": files},
            )
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
            keep_archives=False,
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
    with pytest.raises(InputError, match=r"1\.1\.raw.* missing"):
        fetch(zipped({"1.1.mhd": HEADER.encode()}))
    assert not (fetch.archives / "subset0.json").exists()
