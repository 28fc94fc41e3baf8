"""Show the pages in a browser: a file server for this machine only."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from deatbench.errors import ConfigError, MissingError
from deatbench.store import Home

HOST = "127.0.0.1"


def serve(home: Home, port: int = 8000) -> None:
    """Serve `home.leaderboards` until Ctrl-C and print the address; port 0 takes a free one.

    Raises MissingError if no pages were built, ConfigError if the port cannot be had.
    """
    with server(home, port) as web:
        print(f"http://{HOST}:{web.server_port}/", flush=True)
        try:
            web.serve_forever()
        except KeyboardInterrupt:
            return


def server(home: Home, port: int) -> ThreadingHTTPServer:
    """The server, bound and not yet serving. Raises as `serve` does."""
    if not (home.leaderboards / "index.html").is_file():
        raise MissingError(f"no pages in {home.leaderboards}", "`deatbench leaderboard build` writes them")
    handler = functools.partial(_Quiet, directory=str(home.leaderboards))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {HOST}:{port}: {error}", "choose another --port") from error


class _Quiet(SimpleHTTPRequestHandler):
    """Files without a log line each."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: stdout is data, and requests to oneself are no news."""
