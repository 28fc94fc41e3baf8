"""Who stands where: runs, rows, boards, and what the images can tell apart."""
