"""Whether a command can write where it is told to, found out before its work and not after it."""

from pathlib import Path

from lunaops.errors import InputError


def check_destination(option: str, path: Path, suffix: str = "") -> None:
    """Raise InputError, which names the `option`, unless the file `path` can be written; makes its folder.

    The name has to end in `suffix`. What the file holds stays. It is tried, not looked up: permissions do not say all.
    """
    if suffix and path.suffix.lower() != suffix:
        raise InputError(f"{option} {path}: the file written is {suffix[1:].upper()}; let its name end in {suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
            path.resolve().unlink()  # of a link to nothing what it leads to, which was made, and not the link
        elif not path.is_fifo():  # a pipe that was opened and closed would have ended for its reader
            path.open("ab").close()
    except OSError as error:
        is_blocked = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file stands where its folder should" if is_blocked else error.strerror
        raise InputError(f"{option} {path}: cannot be written: {reason}") from error
