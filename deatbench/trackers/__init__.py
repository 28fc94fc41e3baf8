"""Trackers: one file each. A tracker shows the metrics of a training run elsewhere, while it runs.

@TRACKERS.register("tensorboard")
class TensorBoardTracker(Tracker): ...
"""

from deatbench.trackers.base import TRACKERS, Tracker, Trackers, make_trackers

__all__ = ["TRACKERS", "Tracker", "Trackers", "make_trackers"]
