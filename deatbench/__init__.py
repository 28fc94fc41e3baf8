"""deatbench: train, attack and rank image classifiers; every number can be re-checked."""

__version__ = "0.1.0"
