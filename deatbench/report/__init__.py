"""Records to pages: leaderboards in HTML and Markdown, rendered without torch.

records + cards → boards.boards_of → Board(rows) → columns.COLUMNS → pages → leaderboards/
"""

from deatbench.report.pages import build_leaderboards
from deatbench.report.serve import serve

__all__ = ["build_leaderboards", "serve"]
