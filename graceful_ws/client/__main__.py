"""``python -m graceful_ws.client URL``: a terminal on a graceful WebSocket."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from .terminal import INTERRUPTED, LINGER, Options, Terminal, parse_headers, url_problem

DESCRIPTION = """\
Sends each line of the standard input as a message, and prints each message that arrives. A line
that is JSON is sent as such, any other as a string; empty lines are not sent. States, resumes,
retries, gaps, close codes and results are on the standard error."""
EXAMPLES = """\
examples:
  python -m graceful_ws.client wss://example.com/ws/chat/
  python -m graceful_ws.client ws://127.0.0.1:8001/ws/ ws://127.0.0.1:8002/ws/   two nodes of a site
  python -m graceful_ws.client URL --header "Cookie: sessionid=..." --origin https://example.com
  echo '{"type": "line", "text": "hello"}' | python -m graceful_ws.client URL
  python -m graceful_ws.client URL --json --linger inf < /dev/null               listens only

Restart the server, or kill it, and go on typing. At the end of the input it waits until everything
that was sent has its outcome, and says bye; so does Ctrl-C without waiting.

exit status:
  0    everything that was sent has been handled
  1    something was not, or the server closed for good
  2    wrong options
  130  Ctrl-C"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if sys.platform == "win32":
        parser.error("this needs Linux or macOS (WSL will do)")
    for url in options.urls:
        if wrong := url_problem(url):
            parser.error(wrong)
    try:
        headers = parse_headers(options.header or [])
    except ValueError as error:
        parser.error(f"--header: {error}")
    if not options.linger >= 0:
        parser.error(f"--linger has to be 0 or more, not {options.linger:g}")
    asked = Options(
        options.urls,
        headers,
        options.origin,
        text=options.text,
        json=options.json,
        quiet=options.quiet,
        linger=options.linger,
    )
    logging.getLogger("graceful_ws.client").addHandler(logging.NullHandler())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    fd = None if sys.stdin is None else sys.stdin.fileno()

    async def run() -> int:
        return await Terminal(asked, sys.stdout, sys.stderr).run(fd)

    try:
        status = asyncio.run(run())
    except (asyncio.CancelledError, KeyboardInterrupt):
        status = INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m graceful_ws.client",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("urls", nargs="+", metavar="URL", help="ws:// or wss://; several: nodes of one site")
    add("--header", action="append", metavar='"K: V"', help="of the handshake; may be repeated")
    add("--origin", metavar="ORIGIN", help="as a browser would say, https://example.com")
    add("--text", action="store_true", help="send every line as a string, JSON or not")
    add("--json", action="store_true", help="all that happens as JSON, a line each, on stdout")
    add("--quiet", action="store_true", help="only trouble on the standard error")
    add(
        "--linger",
        type=float,
        default=LINGER,
        metavar="S",
        help="seconds to listen after the last outcome, when the input has ended; inf: until"
        " Ctrl-C; default: %(default)s",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
