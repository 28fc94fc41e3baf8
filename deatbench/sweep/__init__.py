"""Many runs from one file: a grid, a list or a sample of points, done by workers, each point a run like any other."""

from deatbench.sweep.execution import Driver, Watch
from deatbench.sweep.executors import EXECUTORS, Executor, Needs
from deatbench.sweep.ledger import Failure, Ledger, Standing, by_run
from deatbench.sweep.points import Planned, Surroundings, configured
from deatbench.sweep.spec import MAX_POINTS, Sweep, load_sweep, parse_sweep, sweep_names

__all__ = [
    "EXECUTORS",
    "MAX_POINTS",
    "Driver",
    "Executor",
    "Failure",
    "Ledger",
    "Needs",
    "Planned",
    "Standing",
    "Surroundings",
    "Sweep",
    "Watch",
    "by_run",
    "configured",
    "load_sweep",
    "parse_sweep",
    "sweep_names",
]
