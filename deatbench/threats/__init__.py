"""Threat models: which perturbations count. One file per norm; eps lives here and nowhere else."""

from deatbench.threats.base import THREATS, ThreatModel, make_threat

__all__ = ["THREATS", "ThreatModel", "make_threat"]
