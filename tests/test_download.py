import gzip
import hashlib
import logging
import random
import re
import resource
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from server import Fault, Handler, Zenodo, answer, drop_after, ignore_range, say, serve, served

from lunaops.errors import InputError
from lunaops.sources import download as module
from lunaops.sources.download import download

CONTENT = random.Random(16).randbytes(300_000)
PUBLISHED = {"size": len(CONTENT), "md5": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}
UNKNOWN = {"size": None, "md5": None}


@pytest.fixture
def server():
    with served() as server:
        yield server


class Bring:
    """download() of CONTENT from the server to a folder of its own."""

    def __init__(self, server: Zenodo, tmp_path: Path) -> None:
        self.path, self.part = tmp_path / "a.zip", tmp_path / "a.zip.part"
        self.url = server.put("a.zip", CONTENT)

    def __call__(self, pauses_s: tuple[float, ...] = (0.0, 0.0, 0.0), **published: object) -> bytes:
        published = published or PUBLISHED
        md5 = download(self.url, self.path, pauses_s=pauses_s, **published)  # type: ignore[arg-type]
        content = self.path.read_bytes()
        assert md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert [path.name for path in self.path.parent.iterdir()] == ["a.zip"]
        return content

    def refused(self, said: str, **options: object) -> None:
        """It fails with one line, and a later run finishes the job."""
        with pytest.raises(InputError, match=said) as error:
            self(**options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        assert not self.path.exists()


@pytest.fixture
def bring(server, tmp_path):
    return Bring(server, tmp_path)


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
def test_a_file_comes_in_one_request(bring, server, published):
    assert bring(**published) == CONTENT
    assert server.ranges == [None]


def test_a_dropped_connection_is_resumed_at_the_byte_where_it_broke(bring, server):
    server.faults = [drop_after(100_001), drop_after(65_537), drop_after(70_000)]
    assert bring() == CONTENT
    assert server.ranges == [None, "bytes=100001-", "bytes=165538-", "bytes=235538-"]


@pytest.mark.parametrize("seed", range(25))
def test_drops_at_random_bytes_end_in_the_right_file(bring, server, seed):
    draw = random.Random(seed)
    server.faults = [
        draw.choice([drop_after(draw.randrange(len(CONTENT))), ignore_range, answer(503), answer(429)])
        for _ in range(draw.randrange(1, 8))
    ]
    assert bring(pauses_s=(0.0,) * 8, **draw.choice([PUBLISHED, UNKNOWN])) == CONTENT


def test_drops_that_bring_bytes_do_not_use_up_the_pauses(bring, server):
    server.faults = [drop_after(70_000), answer(503), drop_after(70_000), answer(503)]
    assert bring(pauses_s=(0.0, 0.0)) == CONTENT


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
def test_a_server_that_ignores_the_range_starts_the_file_again(bring, server, published, caplog):
    server.faults = [drop_after(70_000), ignore_range]
    assert bring(**published) == CONTENT
    assert server.ranges == [None, "bytes=70000-"]
    assert "the server does not resume; from the first byte again" in caplog.text


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
@pytest.mark.parametrize("said", ["bytes 0-299999/300000", "bytes 69999-299999/300000", "items 70000-", None])
def test_a_piece_that_does_not_go_on_where_the_file_ends_is_not_taken(bring, server, published, said):
    def other_piece(handler: Handler, content: bytes) -> None:
        handler.head(206, Content_Length=1000, **{} if said is None else {"Content_Range": said})
        handler.wfile.write(content[:1000])

    server.faults = [drop_after(70_000), other_piece]
    assert bring(**published) == CONTENT
    assert server.ranges == [None, "bytes=70000-", None]


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
def test_a_server_that_fails_on_every_range_is_asked_for_the_whole(bring, server, published):
    server.faults = [drop_after(70_000), answer(416)]
    assert bring(**published) == CONTENT
    assert server.ranges == [None, "bytes=70000-", None]


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
def test_a_later_process_goes_on_with_what_an_earlier_one_left(bring, server, published):
    bring.part.write_bytes(CONTENT[:1000])
    assert bring(**published) == CONTENT
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize(("published", "ranges"), [(PUBLISHED, []), (UNKNOWN, ["bytes=300000-"])])
def test_what_is_complete_but_was_not_renamed_is_not_downloaded_again(bring, server, published, ranges):
    bring.part.write_bytes(CONTENT)
    assert bring(**published) == CONTENT
    assert server.ranges == ranges


@pytest.mark.parametrize(("published", "requests"), [(PUBLISHED, 1), (UNKNOWN, 2)])
def test_what_is_longer_than_the_file_is_not_its_beginning(bring, server, published, requests):
    bring.part.write_bytes(CONTENT + b"#")
    assert bring(**published) == CONTENT
    assert len(server.ranges) == requests


def test_what_an_earlier_process_left_of_another_file_is_found_out_and_the_next_run_is_right(bring, server):
    bring.part.write_bytes(bytes(1000))
    bring.refused("removed it; run again to download it afresh")
    assert not bring.part.exists()
    assert bring() == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(bring, server, status):
    server.faults = [answer(status)] * 3
    assert bring() == CONTENT


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_lengthens_the_pause(bring, server, caplog, status):
    server.faults = [answer(status, Retry_After="1")]
    assert bring() == CONTENT
    assert "again in 1 s, for which the server asked 1" in caplog.text


def test_retry_after_may_be_a_date(bring, server, caplog):
    server.faults = [answer(429, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True))]
    assert bring() == CONTENT
    assert re.search(r"again in (0\.\d+|1\.\d+|2) s, for which the server asked [12]\n", caplog.text)


@pytest.mark.parametrize(
    "asked",
    ["999999", format_datetime(datetime.now(UTC) + timedelta(days=9)), "Fri, 31 Dec 9999 23:59:59 GMT"],
    ids=["seconds", "in nine days", "at the end of time"],  # without a clock's time: two workers collect the same tests
)
def test_a_pause_is_never_longer_than_ours_whatever_the_server_asks(bring, server, caplog, monkeypatch, asked):
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.01)
    server.faults = [answer(429, Retry_After=asked)]
    assert bring() == CONTENT
    assert re.search(r"again in 0\.01 s, for which the server asked \d{6,}\n", caplog.text)


@pytest.mark.parametrize("asked", ["", "soon", "-5", "1e9", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 99 Nov", "٣" * 9])
def test_a_retry_after_that_says_nothing_changes_nothing(bring, server, caplog, asked):
    server.faults = [answer(429, Retry_After=asked.encode().decode("latin-1"))]
    assert bring() == CONTENT
    assert "again in 0 s\n" in caplog.text


@pytest.mark.parametrize("status", [500, 503])
def test_pauses_grow_and_end_in_one_line(bring, server, caplog, status):
    server.always = answer(status)
    bring.refused(rf"a\.zip.*answers {status}; gave up after 3 tries; run again", pauses_s=(0.01, 0.02))
    assert [f"again in {pause} s" in caplog.text for pause in ("0.01", "0.02")] == [True, True]


def test_a_later_run_finishes_what_was_given_up(bring, server):
    server.faults = [drop_after(70_000), answer(503), answer(503)]
    bring.refused("gave up", pauses_s=(0.0,))
    assert bring() == CONTENT
    assert server.ranges[-1] == "bytes=70000-"


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204, 304])
def test_what_will_not_change_is_one_line_at_once_and_costs_nothing_that_came(bring, server, status):
    bring.part.write_bytes(CONTENT[:1000])
    server.faults = [answer(status)]
    bring.refused(rf"answers {status} .*; fetch\.base_url must lead to Zenodo")
    assert len(server.ranges) == 1
    assert bring() == CONTENT
    assert server.ranges[1] == "bytes=1000-"


def say_line(line: bytes) -> Fault:
    def fault(handler: Handler, content: bytes) -> None:
        handler.wfile.write(line + b"\r\n\r\n")

    return fault


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"HTTP/1.1 404 No\x1b[31m\0t \rhere\x85\t!" + b"?" * 999, r"answers 404 No\[31mt here !\?{66}\.\.\.;"),
        (b"\x1b[2JSSH\0\rx", r"connection lost \(\[2JSSH x\)"),
    ],
)
def test_what_a_server_says_can_neither_paint_nor_break_nor_flood_the_line(bring, server, line, said):
    server.always = say_line(line)
    with pytest.raises(InputError, match=said) as error:
        bring(pauses_s=())
    assert str(error.value).isprintable()


def test_a_redirect_keeps_the_range(bring, server):
    address = bring.url
    server.files["/elsewhere"] = CONTENT
    server.faults = [drop_after(70_000), answer(302, Location=f"{server.origin}/elsewhere"), serve]
    assert bring() == CONTENT
    assert server.ranges == [None, "bytes=70000-", "bytes=70000-"]
    assert bring.url == address


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("/mirror/records/7/files/a.zip?download=1", "redirects"),
        ("file:///etc/hostname", "file"),
        ("http://[", "a.zip"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_one_line(bring, server, to, said):
    server.always = answer(302, Location=to)
    bring.refused(rf"{said}.*mend fetch\.base_url")


def test_a_page_in_place_of_the_file_is_never_taken_for_it(bring, server):
    bring.part.write_bytes(CONTENT[:70_000])
    server.faults = [answer(200, b"<html>", Content_Type="text/html; charset=utf-8")] * 2
    bring.refused("answers with a page of HTML in place of the file; gave up after 2 tries", pauses_s=(0.0,))
    assert bring() == CONTENT
    assert server.ranges[-1] == "bytes=70000-"


@pytest.mark.parametrize("other", [CONTENT[:-1], CONTENT + b"#", b"Not found"])
def test_a_file_of_another_size_is_refused_before_what_came_is_given_up_for_it(bring, server, other):
    bring.part.write_bytes(CONTENT[:70_000])
    server.faults = [answer(200, other)]
    bring.refused(rf"the server has {len(other)} bytes, but 300000 are published; mend fetch\.base_url")
    server.faults = [lambda handler, _: serve(handler, CONTENT[:99_999])]
    bring.refused("the server has 99999 bytes")
    assert bring() == CONTENT
    assert server.ranges[-1] == "bytes=70000-"


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
def test_more_promised_than_sent_ends_in_the_right_file_or_one_line(bring, server, published):
    def promise_more(handler: Handler, content: bytes) -> None:
        handler.wfile.write(handler.head_of_range(content, Content_Length=len(content) + 10))

    server.faults = [promise_more]
    if published is PUBLISHED:
        bring.refused("the server has 300010 bytes")
    assert bring(**published) == CONTENT


def test_pieces_shorter_than_the_rest_are_put_together(bring, server):
    def piece(handler: Handler, content: bytes) -> None:
        start = handler.start()
        stop = min(start + 80_000, len(content))
        handler.head(
            206 if start else 200,
            Content_Length=stop - start if start else len(content),
            **{"Content_Range": f"bytes {start}-{stop - 1}/{len(content)}"} if start else {},
        )
        handler.wfile.write(content[start:stop])

    server.always = piece
    assert bring() == CONTENT
    assert server.ranges == [None, "bytes=80000-", "bytes=160000-", "bytes=240000-"]


def test_wrong_bytes_of_the_right_length_are_refused_and_removed_and_a_later_run_heals(bring, server):
    server.faults = [say(CONTENT[:-9] + b"#" * 9)]
    bring.refused(r"got 300000 bytes with md5 \w+, wanted 300000 with \w+; removed it; run again")
    assert not bring.part.exists()
    assert bring() == CONTENT


def chunked(handler: Handler, content: bytes, *, stop: int | None = None) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.close_connection = True
    handler.head(200, Transfer_Encoding="chunked", Connection="close")
    body = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for piece in [*(content[at : at + 9999] for at in range(0, len(content), 9999)), b""]
    )
    handler.wfile.write(body[:stop])


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
def test_a_body_in_chunks_without_a_length_is_taken(bring, server, published):
    server.faults = [chunked]
    assert bring(**published) == CONTENT
    assert len(server.ranges) == 1


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
@pytest.mark.parametrize("stop", [1, 70_000, 10_005, -1, -3, -5])
def test_chunks_that_end_early_are_noticed_also_where_no_size_is_known(bring, server, published, stop):
    server.faults = [lambda handler, content: chunked(handler, content, stop=stop)]
    assert bring(**published) == CONTENT


def test_a_response_without_any_length_that_ends_early_is_resumed(bring, server):
    def end_early(handler: Handler, content: bytes) -> None:
        handler.head(200)
        handler.wfile.write(content[:70_000])

    server.faults = [end_early]
    assert bring() == CONTENT
    assert server.ranges == [None, "bytes=70000-"]


def test_a_server_that_never_ends_is_stopped_before_it_fills_the_disk(bring, server, monkeypatch):
    def without_end(handler: Handler, content: bytes) -> None:
        handler.head(200)
        handler.wfile.write(content + bytes(1 << 24))

    server.faults = [without_end]
    with pytest.raises(InputError, match=r"got \d+ bytes") as error:
        bring()
    assert len(CONTENT) < int(str(error.value).split("got ")[1].split()[0]) <= len(CONTENT) + (1 << 18)


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_server_that_compresses_although_asked_not_to_is_understood(bring, server, published, encoding):
    packed = gzip.compress(CONTENT) if encoding == "gzip" else zlib.compress(CONTENT)

    def compress(handler: Handler, content: bytes) -> None:
        handler.wfile.write(handler.head_of_range(packed, Content_Encoding=encoding))

    server.faults = [compress]
    assert bring(**published) == CONTENT
    assert len(server.ranges) == 1


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
def test_a_piece_of_a_compressed_answer_is_not_put_behind_what_came_uncompressed(bring, server, published):
    def compress(handler: Handler, content: bytes) -> None:
        handler.wfile.write(handler.head_of_range(gzip.compress(content), Content_Encoding="gzip"))

    server.faults = [drop_after(70_000)]
    server.always = compress
    assert bring(**published) == CONTENT
    assert server.ranges == [None, "bytes=70000-", None]


def test_a_compressed_answer_that_is_damaged_is_asked_for_again(bring, server):
    server.faults = [answer(200, b"no gzip", Content_Encoding="gzip")]
    assert bring() == CONTENT


def test_nobody_there_is_one_line(bring):
    bring.url = "http://127.0.0.1:9/a.zip"
    bring.refused(r"connection lost \(Connection refused\); gave up after 2 tries", pauses_s=(0.0,))


def test_a_name_that_nobody_knows_is_one_line(bring):
    bring.url = "http://nowhere.invalid/a.zip"
    bring.refused(r"connection lost \(.*[Nn]ame.*\); gave up after 1 tries", pauses_s=())


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999/a", "ftp://127.0.0.1/a", "http://" + "a" * 64])
def test_an_address_that_is_none_is_one_line(bring, url):
    bring.url = url
    bring.refused("fetch.base_url", pauses_s=())


def test_a_server_that_accepts_and_never_answers_is_left(bring, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bring.url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip"
        bring.refused(r"connection lost \(timed out\); gave up after 2 tries", pauses_s=(0.0,))


def test_a_server_that_stops_half_way_is_left_and_resumed(bring, server, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    end = threading.Event()

    def stop(handler: Handler, content: bytes) -> None:
        serve(handler, content, stop=70_000)
        end.wait(5)

    server.faults = [stop]
    assert bring() == CONTENT
    end.set()
    assert server.ranges == [None, "bytes=70000-"]


def test_bytes_that_trickle_are_neither_waited_for_nor_lost(bring, server, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)

    def trickle(handler: Handler, content: bytes) -> None:
        for byte in handler.head_of_range(content):
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    server.always = trickle
    bring.refused(r"only \d+ bytes in 0\.2 s; gave up after 2 tries", pauses_s=(0.0,))
    came = bring.part.stat().st_size
    assert 2 < came < 100
    server.always = serve
    assert bring() == CONTENT
    assert server.ranges[-1] == f"bytes={came}-"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS = {  # what a server begins with, and then says again and again
    "a status line": (b"HTTP/1.1 200 ", b"a"),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "promises": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a redirect's body": (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 9999\r\n\r\n", b"a"),
    "a chunk's length": (CHUNKED + b"5;x=", b"a"),
    "trailers": (CHUNKED + b"2\r\n" + CONTENT[:2] + b"\r\n0\r\n", b"X: a\r\n"),
    "a gzip's name": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\3", b"a"),
}


@pytest.mark.parametrize("published", [PUBLISHED, UNKNOWN])
@pytest.mark.parametrize("dripped", DRIPS)
def test_what_is_no_content_and_trickles_without_an_end_is_left(bring, server, monkeypatch, published, dripped):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    first, again = DRIPS[dripped]
    come, waited_for = threading.Event(), threading.Event()

    def drip(handler: Handler, content: bytes) -> None:
        handler.wfile.write(first)
        for _ in range(250):
            if come.wait(0.02):
                return
            handler.wfile.write(again)
        waited_for.set()

    server.faults = [drip]
    assert bring(pauses_s=(0.0,) * 8, **published) == CONTENT
    come.set()
    assert not waited_for.is_set()


def test_https_spoken_to_http_is_one_line(bring):
    bring.url = bring.url.replace("http:", "https:")
    bring.refused(r"connection lost \(.*SSL.*\); gave up after 1 tries", pauses_s=())


def test_a_certificate_that_nobody_trusts_is_one_line_at_once(bring, server, tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout {pem} -out {pem}.crt".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pem}.crt", pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    bring.url = bring.url.replace("http:", "https:")
    bring.refused("self.signed certificate; mend the certificates or fetch.base_url", pauses_s=(60.0,))


def test_a_disk_that_fills_up_is_one_line_and_a_later_run_goes_on(bring, server):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (123_456, hard))
    try:
        bring.refused(r"a\.zip\.part: cannot be written: File too large; mend that and run again")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert bring() == CONTENT
    assert server.ranges == [None, "bytes=123456-"]


def test_a_place_that_is_no_folder_is_one_line(bring, tmp_path):
    (tmp_path / "file").write_text("")
    bring.path = tmp_path / "file" / "a.zip"
    bring.refused("cannot be written: Not a directory")


def test_the_log_says_how_much_of_the_whole_file_came_also_after_a_resume(bring, server, caplog, monkeypatch):
    monkeypatch.setattr("lunaops.progress.FIRST_LINE_AFTER", timedelta(microseconds=1))
    caplog.set_level(logging.INFO)
    bring.part.write_bytes(CONTENT[:150_000])
    assert bring() == CONTENT
    assert re.search(
        r"a\.zip: \d+ of 300 kB \((5|6|7|8|9)\d%\), [\d.]+ .?B/s, done at \d\d:\d\d:\d\d \(in ", caplog.text
    )
