"""One board: its page, its Markdown twin, and the list of all boards."""
