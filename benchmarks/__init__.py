"""Measurements, not part of the package: what deatbench costs beside the published code, on the machine at hand."""
