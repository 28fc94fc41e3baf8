"""Is this robustness number believable? Checks that every evaluation runs by itself."""

from deatbench.soundness.inspect import inspect_model

__all__ = ["inspect_model"]
