"""What a run is told to do: recipes, `--set`, and the digest that names the result."""

from deatbench.config.recipes import as_number, build_config, load_recipe, parse_yaml, read_text, recipe_names, shipped
from deatbench.config.run_config import (
    EvaluationPlan,
    InnerAttack,
    RunConfig,
    Schedule,
    Spec,
    ThreatConfig,
    dump_config,
    validate_config,
    validated,
)

__all__ = [
    "EvaluationPlan",
    "InnerAttack",
    "RunConfig",
    "Schedule",
    "Spec",
    "ThreatConfig",
    "as_number",
    "build_config",
    "dump_config",
    "load_recipe",
    "parse_yaml",
    "read_text",
    "recipe_names",
    "shipped",
    "validate_config",
    "validated",
]
