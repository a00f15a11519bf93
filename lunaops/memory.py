"""How the process's memory is kept between uses."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc, malloc.h


def keep_freed_memory() -> None:
    """Have glibc's malloc keep freed memory instead of giving it back to the system; elsewhere nothing.

    A training step on the CPU frees and allocates the same hundreds of megabytes; having their pages mapped and
    cleared anew each time costs a third of the step (benchmarks/README.md). Threads share one arena: in those of their
    own, batches are given back all the same.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(_M_ARENA_MAX, 1)
