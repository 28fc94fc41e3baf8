"""The command line: a file per command, each parse → call → print. `--help` imports neither torch nor pydantic.

stdout is data (a table, or one JSON document with --json); notes, progress and errors go to stderr.
"""
