"""``manage.py demo --check``: ten clients, twelve faults, and a count of what came of it.

A Redis and a PostgreSQL that the demo runs are killed too.

Numbers go both ways all the time. The nodes write down which of theirs were accepted, see
``project.demo.counted``; a client's line is a row that its handler makes in the transaction that
acknowledges and publishes it, so that every client must hear of every row. Before each fault a
client stops reading until the books are ahead of it, so that there is something to replay.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graceful_ws.client import GracefulClient, GracefulError
from graceful_ws.client.events import MessageReceived
from project.demo.counted import INTERVAL, ROOM, Books
from project.demo.errors import DemoError
from project.demo.servers import servers_of_our_own
from project.demo.supervised import Supervised
from project.demo.supervisor import Say, Supervisor
from project.demo.tally import Tally, tally

CLIENTS = 10
EACH_WAY = 1000  # numbered messages, at least
BEHIND = 5  # messages a client is behind when its fault comes
BURST = 5  # lines that are on their way then
SPEAKS = 0.1  # seconds between two lines of a client
DRAIN = 6.0  # seconds a client does not read while its node drains: longer than drain_window
PATIENCE = 12.0  # seconds for any one thing to happen
FAULTS_WITHIN = 28.0  # seconds from the start to the end of the last fault...
EACH_SERVER = 12.0  # ...and so many more for each server that is killed
LIMIT = 8.0  # seconds after that until what has not arrived counts as lost


class Visitor:
    """A client and its own books."""

    def __init__(self, urls: list[str], directory: Path) -> None:
        self.numbers: list[int] = []  # from the server, as they came
        self.room: list[int] = []  # numbers of the room's stream, as they came
        self.lines: dict[int, int] = {}  # primary key of a line that came → its number there
        self.acked: list[int] = []  # its own lines
        self.nacked: list[int] = []
        self.client = GracefulClient(urls, on_message=self._receive, on_event=lambda event: None)
        self._directory = directory
        self._written = 0
        self._sends: set[asyncio.Task[None]] = set()

    def _receive(self, message: MessageReceived) -> None:
        if message.stream is None:
            self.numbers.append(message.data["number"])
        elif message.stream == ROOM:
            self.room.append(message.seq)
            if message.data["type"] == "line":
                self.lines[message.data["line"]] = message.seq

    @property
    def books(self) -> Books:
        return Books(self._directory, str(self.client.session_id))

    @property
    def behind(self) -> int:
        """Accepted messages that have not arrived."""
        return len(set(self.books.read("accepted")) - set(self.numbers))

    def write(self) -> None:
        """Sends the next line, and waits for nothing."""
        self._written += 1
        task = asyncio.create_task(self._send(self._written))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _send(self, number: int) -> None:
        try:
            await self.client.send({"type": "line", "number": number, "text": "check"})
        except GracefulError:
            self.nacked.append(number)
        else:
            self.acked.append(number)

    async def write_all_the_time(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(SPEAKS)

    @property
    def settled(self) -> bool:
        return not self._sends and not self.behind

    # --- faults -------------------------------------------------------------------------------

    async def fall_behind(self) -> None:
        """Stops reading, until messages wait for it in both directions."""
        self.client.pause_reading()
        await until(lambda: self.behind >= BEHIND, "a client falls behind")
        for _ in range(BURST):
            self.write()
        await asyncio.sleep(0)  # they are on their way, and their acks will not be read

    async def back_after(self, resumes: int) -> None:
        await until(lambda: self.client.resumes > resumes, "a client resumes")

    async def cut(self) -> None:
        resumes = self.client.resumes
        await self.fall_behind()
        self.client.abort()
        await self.back_after(resumes)


class Check:
    """One run. ``say`` hears of the progress."""

    def __init__(self, directory: Path, names: Sequence[str], say: Say) -> None:
        self.directory = directory
        self._say = say
        self._given_up = ""
        self._books = directory / "books"
        self._books.mkdir()
        ports = free_ports(2)
        env = {"DEMO_BOOKS": str(self._books)}
        if "postgres" not in names:
            env["DATABASE_URL"] = f"sqlite:///{directory}/db.sqlite3"
        if "redis" not in names:
            env["REDIS_URL"] = ""
        self._site = Supervisor(
            directory,
            ports,
            application="project.demo.counted:application",
            clock=False,
            password="",
            servers=servers_of_our_own(names, directory),
            env=env,
            say=say,
        )
        urls = [f"ws://127.0.0.1:{port}/ws/" for port in ports]
        # Some know the first node first, some the second.
        self.visitors = [
            Visitor(urls[n % 2 :] + urls[: n % 2], self._books) for n in range(CLIENTS)
        ]

    async def run(self) -> dict[str, Any]:
        """Returns the line of JSON. Raises DemoError when the site does not even start."""
        async with self._site:
            began = time.monotonic()
            end = began + FAULTS_WITHIN + EACH_SERVER * len(self._site.servers)
            for visitor in self.visitors:
                visitor.client.start()
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    await self._hurt()
            except (TimeoutError, DemoError) as error:
                self._given_up = str(error) or f"not done after {end - began:g} s"
                self._say(f"given up: {self._given_up}")
            await self._settle(end + LIMIT)
            result = await self._count()
            await asyncio.gather(*(visitor.client.close() for visitor in self.visitors))
        result["seconds"] = round(time.monotonic() - began, 1)
        return result

    # --- faults -------------------------------------------------------------------------------

    async def _hurt(self) -> None:
        visitors = self.visitors
        # What its connect() did is done when its first message has been handled: it is in the room.
        enter = {"type": "enter", "name": "check"}
        await asyncio.gather(*(visitor.client.send(enter) for visitor in visitors))
        self._say(f"{len(visitors)} clients on two nodes, numbers both ways")
        writers = [asyncio.create_task(visitor.write_all_the_time()) for visitor in visitors]
        try:
            await self._cut_all()
            await self._signal(visitors[0], signal.SIGTERM)
            await self._signal(visitors[1], signal.SIGKILL)
            for server in self._site.servers:
                await self._kill_server(server)
            await until(lambda: min(self._sent(), self._numbers()) >= EACH_WAY, "enough messages")
        finally:
            for writer in writers:
                writer.cancel()

    async def _settle(self, deadline: float) -> None:
        """What is on its way may arrive until ``deadline``; what has not by then is lost."""
        self._say("no more faults; what is on its way arrives")
        Books(self._books, "").close()
        for visitor in self.visitors:
            visitor.client.resume_reading()
        await asyncio.sleep(2 * INTERVAL)
        while not self._settled():
            if time.monotonic() > deadline:
                self._say("not everything has arrived")
                return
            await asyncio.sleep(0.02)

    def _settled(self) -> bool:
        heard = min(len(visitor.lines) for visitor in self.visitors)
        return heard >= self._sent() and all(visitor.settled for visitor in self.visitors)

    async def _cut_all(self) -> None:
        self._say("cutting ten TCP connections")
        await asyncio.gather(*(self._cut_later(0.1 * n, v) for n, v in enumerate(self.visitors)))

    async def _cut_later(self, delay: float, visitor: Visitor) -> None:
        await asyncio.sleep(delay)
        await visitor.cut()

    async def _signal(self, visitor: Visitor, number: signal.Signals) -> None:
        """A node's clients move or lose their connection; one of them does not read meanwhile."""
        client = visitor.client
        await client.connected()
        node = self._site.node(str(client.node))
        resumes, starts = client.resumes, node.starts
        await visitor.fall_behind()
        self._say(f"{number.name} for {node.name} (pid {node.pid})")
        node.send(number)
        if number is signal.SIGTERM:
            await asyncio.sleep(DRAIN)
        else:
            await self._ended(node, starts)
            client.abort()
        client.resume_reading()
        await visitor.back_after(resumes)
        await self._site.ready(node, after=starts)

    async def _kill_server(self, server: Supervised) -> None:
        """It comes back by itself; until each client has said something more, it is not over."""
        self._say(f"SIGKILL for {server.name} (pid {server.pid})")
        starts = server.starts
        server.send(signal.SIGKILL)
        await self._site.ready(server, after=starts)
        before = [len(visitor.acked) for visitor in self.visitors]
        await until(
            lambda: all(
                len(visitor.acked) > count
                for visitor, count in zip(self.visitors, before, strict=True)
            ),
            f"every client is heard after the end of {server.name}",
        )

    async def _ended(self, node: Supervised, starts: int) -> None:
        await until(lambda: not node.running or node.starts > starts, f"{node.name} ends")

    # --- the count ----------------------------------------------------------------------------

    def _sent(self) -> int:
        return sum(len(visitor.acked) for visitor in self.visitors)

    def _numbers(self) -> int:
        return sum(len(visitor.numbers) for visitor in self.visitors)

    async def _count(self) -> dict[str, Any]:
        kept = await self._site.kept()
        handled: dict[str, list[int]] = {}
        for session, number, _ in kept:
            handled.setdefault(session, []).append(number)
        rows = {pk for _, _, pk in kept}
        # All were in the room before the first line: each stream number from there on is for all.
        numbers = {number for visitor in self.visitors for number in visitor.lines.values()}
        due = range(min(numbers, default=1), max(numbers, default=0) + 1)
        total = Tally()
        codes: Counter[int] = Counter()
        for visitor in self.visitors:
            session = str(visitor.client.session_id)
            own = {
                "numbers": tally(visitor.numbers, due=visitor.books.read("accepted")),
                "own lines": tally(handled.get(session, []), due=visitor.acked),
                "room": tally(visitor.room, due=due),
                "lines": Tally(lost=len(rows - visitor.lines.keys())),
            }
            for what, counted in own.items():
                total += counted
                if counted != Tally():
                    self._say(f"{session} on {visitor.client.node}, {what}: {counted}")
            codes += visitor.client.close_codes
        clients = [visitor.client for visitor in self.visitors]
        return {
            "sent": self._sent(),
            "received": self._numbers() + sum(len(visitor.room) for visitor in self.visitors),
            "lost": total.lost,
            "duplicated": total.duplicated,
            "out_of_order": total.out_of_order,
            "uncommitted": sum(len(visitor.lines.keys() - rows) for visitor in self.visitors),
            "refused": sum(len(visitor.nacked) for visitor in self.visitors),
            "given_up": self._given_up,
            "replayed": sum(client.replayed for client in clients),
            "resent": sum(client.resent for client in clients),
            "resumed": sum(client.resumes for client in clients),
            "close_codes": {str(int(code)): codes[code] for code in sorted(codes)},
        }


def complaints(result: dict[str, Any]) -> list[str]:
    """What is wrong with a result; nothing if it shows what it should."""
    wrong = [
        f"{name} is {result[name]}, not 0"
        for name in ("lost", "duplicated", "out_of_order", "uncommitted", "refused")
        if result[name]
    ]
    if result["given_up"]:
        wrong.append(f"not all of it happened: {result['given_up']}")
    wrong += [f"{name} is 0" for name in ("replayed", "resent", "resumed") if not result[name]]
    wrong += [
        f"{name} is {result[name]}, less than {EACH_WAY}"
        for name in ("sent", "received")
        if result[name] < EACH_WAY
    ]
    missed = [code for code in ("1006", "1012") if code not in result["close_codes"]]
    return wrong + [f"no connection ended with {code}" for code in missed]


async def check(names: Sequence[str], say: Say) -> dict[str, Any]:
    """Runs it in a directory of its own, which is gone afterwards. SIGTERM counts as Ctrl-C, so
    that it is. ``names``: servers to run it on, of ``project.demo.servers``."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="graceful_ws_demo_") as directory:
        return await Check(Path(directory), names, say).run()


def free_ports(count: int) -> list[int]:
    """Ports below the range from which clients get theirs: a node that is started again must not
    find one of them on its port."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(15_000, 20_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


async def until(true: Callable[[], bool], what: str) -> None:
    """Raises TimeoutError with ``what`` when it is not so within ``PATIENCE`` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE:g} s: {what}")
        await asyncio.sleep(0.02)
