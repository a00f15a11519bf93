"""What was unpacked from a part's downloads, so that it is known again and not downloaded again."""

import json
import logging
import zlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lunaops.disk import write_whole
from lunaops.progress import bytes_said, progress

_BLOCK = 1 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stamp:
    """A file's size in bytes and the CRC-32 of its content."""

    size: int
    crc32: int


@dataclass(frozen=True)
class Receipt:
    """A download's MD5, and by their names the files that were unpacked from it."""

    md5: str
    files: Mapping[str, Stamp]


class Receipts:
    """The receipts of a part by the names of its downloads, kept as JSON at `path`; unreadable, they count as none.

    They guard against accidents and against what another source left, not against an attacker.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._receipts = _read(path)

    def md5_of(self, name: str) -> str | None:
        """The MD5 that the download had, None where there is no receipt of it."""
        return self._receipts[name].md5 if name in self._receipts else None

    def add(self, name: str, receipt: Receipt) -> None:
        """Replace the download's receipt; `write` keeps it."""
        self._receipts[name] = receipt

    def write(self) -> None:
        """Replace the file at `path`, all at once."""
        text = json.dumps({name: asdict(receipt) for name, receipt in sorted(self._receipts.items())}, indent=1)
        write_whole(self.path, f"{text}\n".encode())

    def link_again(
        self, name: str, previous: Path, folder: Path, *, md5: str | None, files: Collection[str] | None
    ) -> bool:
        """Hard-link what was unpacked from the download `name` out of `previous` into `folder`, once it is checked.

        False, with nothing linked and the reason in the log, where it is not all there as it was unpacked, came from
        a download with another `md5`, or was not these `files` (None: any).
        """
        if name not in self._receipts:
            return False
        receipt = self._receipts[name]
        if md5 not in (None, receipt.md5) or (files is not None and set(files) != set(receipt.files)):
            reason = "another file, or other members of it, are wanted now"
        else:
            reason = _difference(receipt, previous, name) or _link(receipt, previous, folder)
        if reason:
            logger.warning("%s: what was unpacked before is not used: %s", name, reason)
            return False
        num_bytes = sum(stamp.size for stamp in receipt.files.values())
        logger.info(
            "%s: not downloaded: the %d files (%s) that it held are in %s, unchanged (CRC-32)",
            name,
            len(receipt.files),
            bytes_said(num_bytes),
            previous,
        )
        return True


def stamp_of(path: Path) -> Stamp:
    """The size and the CRC-32 of the file at `path`, read in full."""
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return Stamp(size, crc32)


def _read(path: Path) -> dict[str, Receipt]:
    if not path.exists():
        return {}
    try:
        return {
            name: Receipt(str(entry["md5"]), {file: Stamp(**stamp) for file, stamp in entry["files"].items()})
            for name, entry in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s: ignored, for it is no list of what was unpacked (%s)", path, error)
        return {}


def _difference(receipt: Receipt, previous: Path, name: str) -> str:
    """How `previous` differs from the receipt, empty where it does not; sizes first, for they cost nothing."""
    for file, stamp in receipt.files.items():
        path = previous / file
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != stamp.size:
            return f"{path} has {path.stat().st_size} bytes, it was unpacked with {stamp.size}"
    for file, stamp in progress(receipt.files.items(), label=f"check what {name} held", unit="files"):
        if stamp_of(previous / file) != stamp:
            return f"{previous / file} has other bytes than it was unpacked with"
    return ""


def _link(receipt: Receipt, previous: Path, folder: Path) -> str:
    """Link the files, or say why not, with none left linked."""
    try:
        for file in receipt.files:
            (folder / file).hardlink_to(previous / file)
    except OSError as error:
        for file in receipt.files:
            (folder / file).unlink(missing_ok=True)
        return f"{previous} cannot be hard-linked ({error.strerror})"
    return ""
