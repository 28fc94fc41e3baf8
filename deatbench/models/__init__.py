"""Where a MODEL argument comes from: run folders, weight files, the zoo, factories, robustbench, timm."""

from deatbench.models.loaded import LoadedModel

__all__ = ["LoadedModel"]
