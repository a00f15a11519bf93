"""A process that is killed while it writes: before the n-th change that it makes to the disk, or within a file."""

import os
import resource
import signal
import sys
from collections.abc import Callable

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.copyfile"}
_WRITING = os.O_WRONLY | os.O_RDWR


def killed_at(change: int, action: Callable[[], object]) -> bool:
    """Do `action` in a copy of this process that gets SIGKILL before its `change`-th change; False: it was done."""
    left = change

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return _killed(lambda: sys.addaudithook(count), action)


def killed_beyond(length: int, action: Callable[[], object]) -> bool:
    """Do `action` in a copy of this process that dies where a file gets longer than `length`; False: it was done.

    The kernel sees to that, so it also holds for files that no Python writes.
    """

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))

    return _killed(limit, action)


def _killed(prepare: Callable[[], object], action: Callable[[], object]) -> bool:
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the action failed"
        return os.WIFSIGNALED(status)
    try:
        prepare()
        action()
        os._exit(0)
    finally:
        os._exit(1)
