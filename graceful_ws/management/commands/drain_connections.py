"""``manage.py drain_connections``: asks nodes to send their clients elsewhere, and watches them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone
from django.utils.timesince import timesince

from graceful_ws.conf import settings
from graceful_ws.core.close_codes import cut_reason
from graceful_ws.envelopes import NODES, node_envelope, nudge
from graceful_ws.management.drains import Outcome, Watch, outcome_text, progress_text
from graceful_ws.management.operators import OperatorCommand, user_name
from graceful_ws.node.drain import RESERVE
from graceful_ws.store import base, nodes
from graceful_ws.validation import nearest, number_problem

POLL = 0.2  # seconds between looks at the rows
LINE_EVERY = 5.0  # seconds between lines of a node whose phase stays the same, without a terminal
REPORTING = 3.0  # seconds a node may take, after its deadline, to close and to say so
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it

HELP = """\
Asks nodes to drain: they refuse new WebSockets, tell every client when to come back, let running
handlers finish, close the rest with code 1012 and keep running. Nothing is lost: sessions resume on
another node, or on the same one after --undo or a restart.

Nodes see the request at once if a channel layer tells them, else with their next beat, within a few
seconds."""
EXAMPLES = """\
examples:
  manage.py drain_connections                     every live node of this host, before a reboot
  manage.py drain_connections --node web-1        one node, by its name in the admin
  manage.py drain_connections --all --rate 100    the whole site, 100 reconnects a second
  manage.py drain_connections --window 60 --timeout 90 --reason "moving to new hardware"
  manage.py drain_connections --undo              accept connections again
  manage.py drain_connections --json              one JSON object, for a deploy script

exit status:
  0    all drained (with --undo: all up again; with --no-wait: all asked)
  1    not all of them by the deadline; the message names who was left
  130  interrupted; the drain goes on"""


class Command(OperatorCommand):
    help = HELP
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--node", metavar="NAME", help="this node instead of every live node of this host")
        add("--all", action="store_true", help="every live node of the site")
        add("--rate", metavar="N", help="reconnects per second asked of all draining nodes")
        add("--window", metavar="S", help="seconds over which clients are told to come back")
        add("--timeout", metavar="S", help="seconds until whoever is left is dropped")
        add("--reason", metavar="TEXT", help="what clients and the audit trail are told")
        add("--undo", action="store_true", help="let drained nodes accept connections again")
        add("--no-wait", action="store_true", help="ask, and do not wait for the outcome")
        add("--json", action="store_true", help="nothing but one JSON object, at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        request = self._request(options)
        try:
            chosen = self._choose(options)
            self._run(chosen, request, options)
        except DatabaseError as error:
            raise CommandError(_explain(error)) from error

    # --- what is asked ------------------------------------------------------------------------

    def _request(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options of the drain, as a node reads them; seconds, and reconnects per second."""
        if options["node"] is not None and options["all"]:
            raise CommandError("--all is every node: leave out either --node or --all.")
        if options["undo"]:
            for name in ("rate", "window"):
                if options[name] is not None:
                    raise CommandError(f"--{name} is for a drain: leave it out with --undo.")
        observe = _number("GRACEFUL_WS drain_observe", settings.drain_observe, zero=True)
        deadline = _number("--timeout", options["timeout"], settings.drain_deadline)
        rate = _number("--rate", options["rate"], settings.drain_rate)
        window = _number("--window", options["window"], settings.drain_window, zero=True)
        if options["undo"]:
            return {"deadline": deadline, "reason": cut_reason(options["reason"] or "")}
        if options["window"] is None:
            window = min(window, max(0.0, deadline - observe - RESERVE))
        if observe + window > deadline:
            observing = f" and drain_observe ({observe:g} s)" if observe else ""
            raise CommandError(
                f"--window ({window:g} s){observing} would end after the deadline ({deadline:g} s):"
                f" ask for --timeout {observe + window + RESERVE:g} or more, or a shorter --window."
            )
        request: dict[str, Any] = {"window": window, "rate": rate, "deadline": deadline}
        if options["reason"]:
            request["reason"] = cut_reason(options["reason"])
        return request

    def _choose(self, options: dict[str, Any]) -> list[nodes.Status]:
        everybody = nodes.statuses()
        live = [status for status in everybody if status.is_live]
        name, host = options["node"], socket.gethostname()
        if name is not None:
            chosen = [status for status in live if status.name == name]
            if not chosen:
                raise CommandError(_unknown(name, everybody, live))
            return chosen
        if not live:
            raise CommandError(
                "No node is live: a server becomes one at its first WebSocket; is it running, and"
                f" on the database that {settings.database!r} is here?"
            )
        chosen = live if options["all"] else [status for status in live if status.host == host]
        if not chosen:
            raise CommandError(
                f"No live node on this host ({host}); elsewhere: {_names(live)}. Use --node NAME"
                " or --all."
            )
        return chosen

    # --- asking and waiting -------------------------------------------------------------------

    def _run(
        self, chosen: Sequence[nodes.Status], request: dict[str, Any], options: dict[str, Any]
    ) -> None:
        undo, ids = options["undo"], [status.id for status in chosen]
        started = time.monotonic()
        watch = Watch(chosen, started, silent_after=settings.dead_after, undo=undo)
        ask = self._asker(ids, request, undo=undo)
        asked = ask()
        if not options["no_wait"]:
            until = started + request["deadline"] + settings.beat_interval + REPORTING
            try:
                self._wait(watch, until, ask, _Screen(self, quiet=options["json"], undo=undo))
            except KeyboardInterrupt:
                goes_on = "The nodes do what they were asked all the same"
                remedy = "" if undo else "; --undo takes the drain back"
                raise CommandError(f"{goes_on}{remedy}.", returncode=INTERRUPTED) from None
        seconds = time.monotonic() - started
        if options["json"]:
            self._write_json(watch, seconds, options)
        elif options["no_wait"]:
            said = f"Asked: {_names(s for s in chosen if s.id in asked)}." if asked else ""
            self.stdout.write(said or "Nothing to ask: it is under way already, or not needed.")
        else:
            for node in watch.nodes.values():
                if node not in watch.failed:
                    self.stdout.write(outcome_text(node, undo=undo))
        if watch.failed:
            self._fail(watch, seconds, undo=undo)

    def _asker(
        self, ids: list[Any], request: dict[str, Any], *, undo: bool
    ) -> Callable[[], list[Any]]:
        actor = f"{user_name()}@{socket.gethostname()}"

        def ask() -> list[Any]:
            if undo:
                asked = nodes.ask_undo(ids, actor=actor, reason=request["reason"])
            else:
                asked = nodes.ask_drain(ids, request, actor=actor)
            if asked:
                nudge(NODES, node_envelope())
            return asked

        return ask

    def _wait(
        self, watch: Watch, until: float, ask: Callable[[], list[Any]], screen: _Screen
    ) -> None:
        away: DatabaseError | None = None
        while True:
            try:
                rows = nodes.statuses(pk__in=list(watch.nodes))
            except DatabaseError as error:
                base.forget_connection()
                if away is None:
                    self.stderr.write(f"The database does not answer, waiting for it: {error}")
                away = error
            else:
                away = None
                watch.looked(rows, time.monotonic())
                screen.show(watch)
                if watch.to_ask_again:
                    ask()
            if not watch.waiting:
                return
            if time.monotonic() >= until:
                if away is not None:
                    raise away
                watch.gave_up()
                return
            time.sleep(POLL)

    # --- saying -------------------------------------------------------------------------------

    def _write_json(self, watch: Watch, seconds: float, options: dict[str, Any]) -> None:
        answer = {
            "action": "undo" if options["undo"] else "drain",
            "waited": not options["no_wait"],
            "done": not watch.failed and not watch.waiting,
            "seconds": round(seconds, 2),
            "nodes": [node.row() for node in watch.nodes.values()],
        }
        self.stdout.write(json.dumps(answer))

    def _fail(self, watch: Watch, seconds: float, *, undo: bool) -> None:
        said = "; ".join(outcome_text(node, undo=undo) for node in watch.failed)
        what = "up again" if undo else "drained"
        silent = any(node.outcome is Outcome.SILENT for node in watch.failed)
        remedy = " Does its process still run, and reach the database?" if silent else ""
        raise CommandError(f"Not all {what} after {seconds:.0f} s: {said}.{remedy}")


class _Screen:
    """A line per node: redrawn in place on a terminal, written when it has news elsewhere."""

    def __init__(self, command: Command, *, quiet: bool, undo: bool) -> None:
        self._out = command.stdout
        self._quiet = quiet
        self._terminal = self._out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._drawn = 0
        self._said: dict[Any, tuple[str, float]] = {}
        self._undo = undo
        self._cells = "█░" if _can_encode(self._out, "█░") else "#."

    def show(self, watch: Watch) -> None:
        if self._quiet:
            return
        if self._terminal:
            self._draw(watch)
        elif not self._undo:
            self._write_news(watch)

    def _draw(self, watch: Watch) -> None:
        """Over what was drawn before; gone when nobody is waited for any more."""
        erase = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        columns = shutil.get_terminal_size().columns - 1
        width = max(len(node.status.name) for node in watch.nodes.values())
        lines = []
        for node in watch.waiting:
            text = progress_text(node.status, cells=self._cells) or node.status.state
            lines.append(f"{node.status.name:{width}}  {text}"[:columns])
        self._drawn = len(lines)
        self._out.write(erase + "".join(f"{line}\n" for line in lines), ending="")
        self._out.flush()

    def _write_news(self, watch: Watch) -> None:
        now = time.monotonic()
        for node in watch.waiting:
            text = progress_text(node.status, width=0)
            before, at = self._said.get(node.status.id, ("", 0.0))
            word = text.partition(" ")[0]
            if word != before.partition(" ")[0] or (text != before and now - at >= LINE_EVERY):
                self._said[node.status.id] = (text, now)
                self._out.write(f"{node.status.name} {' '.join(text.split())}")
                self._out.flush()


# --- words ------------------------------------------------------------------------------------


def _number(name: str, given: Any, default: Any = None, *, zero: bool = False) -> float:
    """``given``, or the setting where nothing was. Raises CommandError with the remedy."""
    if given is None:
        given, name = default, f"the setting behind {name}"
    try:
        value = float(given) if isinstance(given, str) else given
    except ValueError:
        value = given
    if wrong := number_problem(value, zero=zero):
        raise CommandError(f"{name} {wrong.removesuffix(repr(value))}{given!r}.")
    return float(value)


def _unknown(name: str, everybody: Sequence[nodes.Status], live: Sequence[nodes.Status]) -> str:
    known = f"Live nodes: {_names(live)}." if live else "No node is live."
    for status in everybody:
        if status.name == name:
            ago = timesince(status.beat_at, timezone.now(), depth=1)
            return f"The node {name!r} is {status.state}; its last beat was {ago} ago. {known}"
    near = nearest(name, {status.name for status in live})
    return f"There is no node {name!r}{f', did you mean {near!r}?' if near else '.'} {known}"


def _names(statuses: Any) -> str:
    return ", ".join(sorted({status.name for status in statuses}))


def _explain(error: DatabaseError) -> str:
    """One line for what the database said."""
    said = " ".join(str(error).split())
    try:
        base.forget_connection()
        if not nodes.migrated():
            return "The tables are not there yet: run 'manage.py migrate' first."
        if "no such column" in said or "does not exist" in said:
            return f"The tables are of another version ({said}): run 'manage.py migrate' first."
    except DatabaseError:
        pass  # the first error says more
    return f"The database {settings.database!r} does not answer as it should: {said}"


def _can_encode(stream: Any, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
