"""Series ids: what may name a scan, and its files."""

import re

SERIES_UID_WANTED = "up to 64 digits, letters, dots, - or _, and no .."
_SERIES_UID = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,63}")  # a DICOM UID has digits and dots; other data letters


def is_series_uid(text: str) -> bool:
    """Whether it can name a scan's files on any system, as SERIES_UID_WANTED says."""
    return _SERIES_UID.fullmatch(text) is not None and ".." not in text
