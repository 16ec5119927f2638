"""``manage.py soak``: many clients that count, while the operator deploys or kills things."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)

from graceful_ws.validation import number_problem

if TYPE_CHECKING:
    from graceful_ws.soak.report import Report
    from graceful_ws.soak.runner import Plan, Soak

MISUSED = 2  # exit status when nothing could be tried
INTERRUPTED = 130  # exit status of a second Ctrl-C, as shells have it
CLIENTS_A_SECOND = 50  # that are started, unless --ramp says otherwise
FILES_BESIDES = 64  # open files of the process that are no connections
MOST = 100_000  # clients

HELP = """\
Connects clients to an echo consumer and sends numbered messages, while you deploy, restart or kill
what is behind the URLs; then says what was lost, duplicated or out of order, how long the longest
silence was, and how connections ended. The site mounts, on staging or behind a login:

  from graceful_ws.echo import EchoConsumer
  path("ws/soak/", EchoConsumer.as_asgi())

Clients behave as those of your users do: they wait, move and resume by the same rules."""
EXAMPLES = """\
examples:
  manage.py soak wss://staging.example.com/ws/soak/
      10 clients, 1 message a second each, for a minute
  manage.py soak ws://web-1:8000/ws/soak/ ws://web-2:8000/ws/soak/ --clients 1000 --seconds 600
      1,000 clients of two nodes for ten minutes: time for a deploy
  manage.py soak wss://staging.example.com/ws/soak/ --header "Cookie: sessionid=..." --json
      as a user who is logged in; one line of JSON, for a deploy script

Ctrl-C ends it early, with the table; a second one at once.

exit status:
  0    nothing lost, duplicated or out of order, no gap, and every message has its outcome
  1    a violation; the last line names them
  2    wrong options, or nobody lets the first client in
  130  stopped by a second Ctrl-C, or before anything was sent"""


class _HelpFormatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of the options, and the lines of the text as they are."""


class Command(BaseCommand):
    help = HELP
    requires_system_checks = []  # it is a client: the settings here may not be those of the site

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, epilog=EXAMPLES, formatter_class=_HelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("urls", nargs="+", metavar="URL", help="ws:// or wss://; several: nodes of one site")
        add("--clients", metavar="N", default="10", help="default: %(default)s")
        add("--seconds", metavar="S", default="60", help="default: %(default)s")
        add("--rate", metavar="R", default="1", help="messages a second of each client; default: 1")
        add(
            "--ramp",
            metavar="S",
            help="seconds over which clients are started, before --seconds begin;"
            f" default: {CLIENTS_A_SECOND} clients a second",
        )
        add("--size", metavar="BYTES", default="0", help="of a message's data; default: about 60")
        add(
            "--settle",
            metavar="S",
            default="60",
            help="seconds at most, at the end, for what is on its way; default: %(default)s",
        )
        add("--header", action="append", metavar='"K: V"', help="of the handshake; may be repeated")
        add("--origin", metavar="ORIGIN", help="as a browser would say, https://example.com")
        add("--json", action="store_true", help="nothing but one line of JSON, at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            from graceful_ws.soak.runner import CannotConnect, Soak
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "websockets":
                raise
            raise CommandError(
                'soak needs the client: pip install "django-graceful-ws[client]".',
                returncode=MISUSED,
            ) from None
        plan = _plan(options)
        _allow_files(plan.clients)
        try:
            report = asyncio.run(self._run(plan, options, Soak))
        except CannotConnect as error:
            raise CommandError(str(error), returncode=MISUSED) from None
        except (asyncio.CancelledError, KeyboardInterrupt):
            said = "Stopped; sessions that were open end by themselves."
            raise CommandError(said, returncode=INTERRUPTED) from None
        self._say(report, options)

    async def _run(self, plan: Plan, options: dict[str, Any], soak_class: type[Soak]) -> Report:
        from graceful_ws.soak.screen import Progress, Screen

        err = self.stderr
        terminal = err.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        cells = "█░" if _can_encode(err, "█░") else "#."

        def write(text: str) -> None:
            err.write(text, style_func=str, ending="")
            err.flush()

        screen = Screen(write, terminal=terminal, cells=cells)

        def show(progress: Progress) -> None:
            if not options["json"]:
                screen.show(progress, time.monotonic())

        soak = soak_class(plan, show)
        with _signals(soak):
            try:
                return await soak.run()
            finally:
                screen.clear()

    def _say(self, report: Report, options: dict[str, Any]) -> None:
        if report.interrupted and not report.counts.sent:
            raise CommandError("Stopped before anything was sent.", returncode=INTERRUPTED)
        self.stdout.write(json.dumps(report.as_json()) if options["json"] else report.table())
        if verdict := report.verdict():
            raise CommandError(" ".join([f"Not all is well: {verdict}.", report.hint()]).strip())


class _signals:
    """The first SIGINT or SIGTERM stops the soak, the second one the process."""

    def __init__(self, soak: Soak) -> None:
        self._soak = soak
        self._handled: list[signal.Signals] = []

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not on Windows, and in the main thread only: then Ctrl-C stops at once.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                self._loop.add_signal_handler(number, self._signalled)
                self._handled.append(number)

    def __exit__(self, *error: object) -> None:
        for number in self._handled:
            self._loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self._soak.report.interrupted and self._task is not None:
            self._task.cancel()
        self._soak.stop()


# --- options ----------------------------------------------------------------------------------


def _plan(options: dict[str, Any]) -> Plan:
    from graceful_ws.client.terminal import parse_headers, url_problem
    from graceful_ws.soak.runner import Plan

    for url in options["urls"]:
        if wrong := url_problem(url):
            raise CommandError(wrong, returncode=MISUSED)
    try:
        headers = parse_headers(options["header"] or [])
    except ValueError as error:
        raise CommandError(f"--header: {error}", returncode=MISUSED) from None
    clients = int(_number("clients", options, whole=True))
    if clients > MOST:
        raise CommandError(f"--clients is at most {MOST}, not {clients}.", returncode=MISUSED)
    ramp = clients / CLIENTS_A_SECOND
    return Plan(
        urls=tuple(options["urls"]),
        clients=clients,
        seconds=_number("seconds", options),
        rate=_number("rate", options),
        ramp=ramp if options["ramp"] is None else _number("ramp", options, zero=True),
        settle=_number("settle", options, zero=True),
        size=int(_number("size", options, whole=True, zero=True)),
        headers=headers,
        origin=options["origin"],
    )


def _number(
    name: str, options: dict[str, Any], *, whole: bool = False, zero: bool = False
) -> float:
    """An option's value. Raises CommandError with what it has to be."""
    given = value = options[name]
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            value = int(given) if whole else float(given)
    if wrong := number_problem(value, whole=whole, zero=zero):
        said = f"--{name} {wrong.removesuffix(repr(value))}{given!r}."
        raise CommandError(said, returncode=MISUSED)
    return float(value)


def _allow_files(clients: int) -> None:
    """A connection is an open file, and two for a moment when a client moves."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted, needed = 2 * clients + FILES_BESIDES, clients + FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed < needed:
        raise CommandError(
            f"{clients} clients need {needed} open files, and this process may have {allowed}:"
            f" raise the hard limit (ulimit -Hn {wanted}), or take fewer clients.",
            returncode=MISUSED,
        )
    with contextlib.suppress(OSError, ValueError):  # some systems have another limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _can_encode(stream: Any, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
