"""Reports of sweeps: SweepResults to pages with figures and data, a kind of report per file.

read_sweep(folder) → Swept → cells (runs alike but for the seed) → Report (claims, sections) → leaderboards/sweeps/
"""
