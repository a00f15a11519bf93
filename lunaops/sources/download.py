"""One URL to one file: resumed after any interruption, held to its size and its checksum."""

import contextlib
import hashlib
import io
import logging
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
import urllib3

from lunaops.disk import write_block, writing
from lunaops.errors import InputError
from lunaops.progress import BYTES, bytes_said, progress
from lunaops.sources.time_limit import cut_off, within

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before each new try; from the first again when bytes came
LONGEST_PAUSE_S = 600.0  # whatever the server asks for
TIMEOUT_S = 60.0  # without any byte; and for _BLOCK bytes: what is slower counts as an interruption
_PATIENCE = 2  # times that long an answer, redirects included, and a piece of the content may take to be whole
_CONNECT_S = 10.0
_SAID = 80  # characters of what a server says, in a message
_BLOCK = 1 << 16
_READ = 1 << 18

logger = logging.getLogger(__name__)


def download(
    url: str, path: Path, *, size: int | None, md5: str | None, pauses_s: Sequence[float] = PAUSES_S, hint: str = ""
) -> str:
    """Bring `url` to `path`, complete or not there, and give its MD5; PATH.part is what an interruption leaves.

    `size` in bytes and `md5` are what it must have, None where that is unknown. Raises InputError where the server
    fails for longer than the pauses, what came is something else (it is removed; `hint` is said), or the disk is full.
    """
    logger.info("%s: %s from %s", path.name, "size unknown" if size is None else bytes_said(size), url)
    with _Part(path.with_name(f"{path.name}.part")) as part:
        if size is not None and part.size > size:
            logger.warning("%s: has more than the %d bytes of %s; starting again", part.path, size, path.name)
            part.restart()
        _complete(url, part, size, pauses_s)
        got = part.md5.hexdigest()
    if size not in (None, part.size) or md5 not in (None, got):
        part.path.unlink()
        raise InputError(
            f"{path}: got {part.size} bytes with md5 {got}, wanted {size or part.size} with {md5 or got}; "
            f"removed it; run again to download it afresh{hint}"
        )
    part.path.rename(path)
    return got


def md5_of(path: Path) -> "hashlib._Hash":
    """The MD5 of what is in the file, to be added to."""
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        blocks = iter(lambda: file.read(1 << 20), b"")
        size = path.stat().st_size
        for block in progress(blocks, total=size, size_of=len, label=f"check {path.name}", unit=BYTES):
            md5.update(block)
    return md5


class _InterruptedError(Exception):
    """The download may go on after a pause, of at least `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _Part:
    """What has come of a download: a file that grows, with its size and MD5."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resumes = True  # until the server does not give the range that it was asked for
        with writing(path):
            self._file = io.FileIO(path, "ab")
        self.md5 = md5_of(path)
        self.size = path.stat().st_size

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def restart(self) -> None:
        self._file.truncate(0)
        self.size, self.md5 = 0, hashlib.md5(usedforsecurity=False)

    def append(self, block: bytes) -> None:
        write_block(self._file, block)
        self.md5.update(block)
        self.size += len(block)


def _complete(url: str, part: _Part, size: int | None, pauses_s: Sequence[float]) -> None:
    """Complete `part`, through as many interruptions as bring new bytes, or as there are pauses."""
    pauses = iter(pauses_s)
    most = part.size
    while size is None or part.size < size:
        try:
            _receive(url, part, size)
            return
        except _InterruptedError as interruption:
            if part.size >= most + _BLOCK:
                most, pauses = part.size, iter(pauses_s)
            pause_s = next(pauses, None)
            if pause_s is None:
                raise InputError(
                    f"{url}: {interruption}; gave up after {len(pauses_s) + 1} tries; "
                    "run again to go on from where it stopped, or give a mirror as fetch.base_url"
                ) from interruption
            pause_s = max(pause_s, min(interruption.retry_after_s, LONGEST_PAUSE_S))
            asked = (
                f", for which the server asked {interruption.retry_after_s:.0f}" if interruption.retry_after_s else ""
            )
            logger.warning("%s: %s at byte %d; again in %g s%s", url, interruption, part.size, pause_s, asked)
            time.sleep(pause_s)


def _receive(url: str, part: _Part, size: int | None) -> None:
    """Append what one request brings. Raises _InterruptedError where that is not the rest."""
    ranged = part.resumes and part.size > 0
    with _connection(url), _request(url, part.size if ranged else 0) as response:
        if ranged and response.status_code == requests.codes.requested_range_not_satisfiable:
            _check_end(response, part, size)
            return
        _check_status(url, response)
        if response.status_code == requests.codes.partial:
            _check_start(response, part, ranged)
        end = _announced_size(response)
        if size is not None and end not in (None, size):
            raise InputError(f"{url}: the server has {end} bytes, but {size} are published; mend fetch.base_url")
        if response.status_code == requests.codes.ok and part.size:
            logger.warning("%s: the server does not resume; from the first byte again", url)
            part.restart()
        end = size if end is None else end
        _append(response, part, end)
    if end is not None and part.size < end:
        raise _InterruptedError("connection closed early")


def _request(url: str, start: int) -> requests.Response:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    timeouts = (_CONNECT_S, TIMEOUT_S)
    try:
        return within(_PATIENCE * TIMEOUT_S, lambda: requests.get(url, headers=headers, stream=True, timeout=timeouts))
    except ValueError as error:  # also an address to which the server redirects
        raise InputError(f"{url}: {_plain(str(error))}; mend fetch.base_url") from error


def _append(response: requests.Response, part: _Part, end: int | None) -> None:
    blocks = progress(_blocks(response), total=end, size_of=len, done=part.size, label=part.path.stem, unit=BYTES)
    for block in blocks:
        part.append(block)
        if end is not None and part.size > end:
            return  # its content will not be right: spare the disk


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """The content in pieces as they come: one that trickles in is then neither waited for nor lost."""
    while True:
        since, brought = time.monotonic(), 0
        with cut_off(_PATIENCE * TIMEOUT_S, response.raw.shutdown) as is_cut:
            while time.monotonic() - since <= TIMEOUT_S:
                block = response.raw.read1(_READ, decode_content=True)
                if not block or is_cut.is_set():
                    return
                yield block
                brought += len(block)
        if brought < _BLOCK:
            raise _InterruptedError(f"only {brought} bytes in {TIMEOUT_S:g} s")


@contextlib.contextmanager
def _connection(url: str) -> Iterator[None]:
    """Tell interruptions from what trying again will not mend."""
    try:
        yield
    except (
        TimeoutError,
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.HTTPError,
    ) as error:
        reason = _innermost(error)
        said = (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise InputError(
                f"{url}: {_plain(reason.verify_message)}; mend the certificates or fetch.base_url"
            ) from error
        raise _InterruptedError(f"connection lost ({_plain(said)})") from error
    except requests.RequestException as error:
        raise InputError(f"{url}: {_plain(str(error))}; mend fetch.base_url") from error


def _plain(said: str) -> str:
    """What came from a server, fit for a line: its printable characters, the first of them."""
    line = " ".join("".join(char for char in said if char.isprintable() or char.isspace()).split())
    return line if len(line) <= _SAID else f"{line[:_SAID]}..."


def _innermost(error: BaseException) -> BaseException:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if (
        status in (requests.codes.request_timeout, requests.codes.too_many_requests)
        or status >= requests.codes.server_error
    ):
        raise _InterruptedError(f"the server answers {status}", _seconds(response.headers.get("Retry-After", "")))
    if status not in (requests.codes.ok, requests.codes.partial):
        raise InputError(
            f"{url}: the server answers {status} {_plain(response.reason or '')}; "
            "fetch.base_url must lead to Zenodo or to a mirror with the same paths"
        )
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _InterruptedError("the server answers with a page of HTML in place of the file")


def _check_start(response: requests.Response, part: _Part, ranged: bool) -> None:
    """See that the piece goes on where `part` ends; what is compressed on the way is a piece of something else."""
    continues = response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-")
    if not (ranged and continues) or _is_encoded(response):
        part.resumes = False
        raise _InterruptedError("the server answers another range than it was asked for")


def _check_end(response: requests.Response, part: _Part, size: int | None) -> None:
    """See that nothing follows `part` because it is complete, which only this tells where no size is published."""
    if size is not None or response.headers.get("Content-Range") != f"bytes */{part.size}":
        part.resumes = False
        raise _InterruptedError("the server has no such range")


def _announced_size(response: requests.Response) -> int | None:
    """The whole file's size as the server tells it."""
    if response.status_code == requests.codes.partial:
        said = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        said = "" if _is_encoded(response) else response.headers.get("Content-Length", "")
    return int(said) if re.fullmatch("[0-9]{1,18}", said) else None


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity") != "identity"


def _seconds(retry_after: str) -> float:
    """A Retry-After header's seconds, or those until its date; 0 where it is neither or past."""
    if re.fullmatch("[0-9]{1,9}", retry_after):
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return 0.0
    return max((date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
