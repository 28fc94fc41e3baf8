"""Which training gets to a robust accuracy first."""
