"""Is this robustness number believable? Checks that every evaluation runs by itself.

A check that fires leaves a flag: a code and a plain sentence, kept in the record and shown on the page.
"""

from deatbench.soundness.inspect import inspect_model
from deatbench.soundness.judge import judge_results
from deatbench.soundness.survivors import inspect_survivors

__all__ = ["inspect_model", "inspect_survivors", "judge_results"]
