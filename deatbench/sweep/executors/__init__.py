"""Where the runs of a sweep are done. Adding a way is adding a file."""

from deatbench.sweep.executors.base import EXECUTORS, Executor, Needs

__all__ = ["EXECUTORS", "Executor", "Needs"]
