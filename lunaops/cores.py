"""How many processes can work at once."""

import os


def num_cores() -> int:
    """The cores that this process may use; all of the machine's where the system cannot tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
