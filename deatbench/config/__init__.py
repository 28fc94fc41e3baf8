"""What a run is told to do: recipes, `--set`, and the digest that names the result."""

from deatbench.config.recipes import build_config, load_recipe, parse_yaml, recipe_names
from deatbench.config.run_config import (
    EvaluationPlan,
    InnerAttack,
    RunConfig,
    Schedule,
    Spec,
    ThreatConfig,
    dump_config,
    validate_config,
)

__all__ = [
    "EvaluationPlan",
    "InnerAttack",
    "RunConfig",
    "Schedule",
    "Spec",
    "ThreatConfig",
    "build_config",
    "dump_config",
    "load_recipe",
    "parse_yaml",
    "recipe_names",
    "validate_config",
]
