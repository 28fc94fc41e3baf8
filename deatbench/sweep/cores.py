"""How many cores of this machine are this process's to use."""

import os


def usable_cores() -> int:
    """Those that it may run on, where the system says so; else all."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
