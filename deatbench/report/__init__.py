"""Records to pages: leaderboards in HTML and Markdown, rendered without torch.

read_inputs(home) → Inputs → boards_of → Board(rows) → a module per kind of page → pages_of → leaderboards/
"""

from deatbench.report.serve import serve
from deatbench.report.site import build_leaderboards

__all__ = ["build_leaderboards", "serve"]
