"""What goes wrong, when, and how it is made good again."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tests.system.chaos.options import Options, possible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import ServerProcess
    from tests.system.chaos.place import Place
    from tests.system.chaos.visitors import Visitor

STANDING = {"drop"}  # from beginning to end, nothing to do in between
STOPS_WITHIN = 25.0  # seconds for a node that was told to; its drain_deadline is 8
LONGEST_PAUSE = 20.0
STARTS = 3


class Faults:
    """A schedule from a seed: each fault once in a random order, then any of them.

    Faults overlap, but one node or server suffers one thing at a time, so that it can be said what
    a stop has to look like; only SIGKILL also comes on top of others.
    """

    def __init__(
        self,
        options: Options,
        place: Place,
        visitors: Sequence[Visitor],
        say: Callable[[str], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._seconds = options.seconds
        self._random = random.Random(options.seed)
        self._place = place
        self._visitors = visitors
        self._say = say
        self._names = [name for name in possible(options) if name not in STANDING]
        self.counts.update(name for name in possible(options) if name in STANDING)
        self._locks: dict[str, asyncio.Lock] = {}
        self._killed: dict[str, tuple[int, ...]] = {}  # exit statuses of what was killed
        self._ends = 0.0

    async def run(self) -> None:
        """Until the time is up and every fault that was begun has been made good."""
        clock = asyncio.get_running_loop().time
        self._ends = clock() + self._seconds
        if not self._names:
            await asyncio.sleep(self._seconds)
            return
        pause = min(2.0, self._seconds * 0.6 / len(self._names))
        async with asyncio.TaskGroup() as group:
            for name in self._order():
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.5))
                if clock() > self._ends - 0.5:
                    break
                # Each with random numbers of its own: what it draws is not a matter of timing.
                chance = random.Random(self._random.random())
                group.create_task(self._begin(name, chance))
            await asyncio.sleep(max(0.0, self._ends - clock()))

    def _order(self) -> list[str]:
        first = self._names[:]
        self._random.shuffle(first)
        return first + self._random.choices(self._names, k=int(self._seconds * 2) + 1)

    async def _begin(self, name: str, chance: random.Random) -> None:
        fault: Callable[[random.Random], Awaitable[None]] = getattr(self, f"_{name}")
        await fault(chance)

    def _note(self, name: str, text: str) -> None:
        self.counts[name] += 1
        self._say(f"{name}: {text}")

    def _time(self, chance: random.Random, low: float, high: float) -> float:
        """Seconds within a range, and not much beyond the end of the run."""
        left = self._ends - asyncio.get_running_loop().time()
        return min(chance.uniform(low, high), max(low, left))

    @asynccontextmanager
    async def _only(self, *things: str) -> AsyncIterator[bool]:
        """The things for oneself; false when the run has ended before that."""
        locks = [self._locks.setdefault(thing, asyncio.Lock()) for thing in sorted(things)]
        held: list[asyncio.Lock] = []
        try:
            for lock in locks:
                await lock.acquire()
                held.append(lock)
            yield asyncio.get_running_loop().time() < self._ends - 0.5
        finally:
            for lock in held:
                lock.release()

    # --- nodes --------------------------------------------------------------------------------

    async def _sigterm(self, chance: random.Random) -> None:
        for node in chance.sample(self._place.nodes, len(self._place.nodes)):
            async with self._only(node.name) as in_time:
                if not in_time:
                    return
                self._note("sigterm", f"{node.name}")
                node.terminate()
                await self._ended(node)
                await self._back(node)
                self._say(f"sigterm: {node.name} is back")

    async def _ended(self, node: ServerProcess) -> None:
        try:
            status = await node.await_exit(STOPS_WITHIN)
        except AssertionError:
            self.violations.append(f"{node.name} did not end {STOPS_WITHIN:g} s after SIGTERM")
            node.kill()
            return
        if status not in (0, *self._killed.get(node.name, ())):
            self.violations.append(f"{node.name} ended with {status} after SIGTERM")

    async def _sigkill(self, chance: random.Random) -> None:
        """Sometimes while something else happens to the node: it may drain, or be stopped."""
        node = chance.choice(self._place.nodes)
        alone = chance.random() < 0.6
        async with self._only(*[node.name] if alone else []) as in_time:
            if not in_time:
                return
            self._note("sigkill", node.name)
            self._killed[node.name] = (-signal.SIGKILL,)
            node.kill()
            await asyncio.sleep(self._time(chance, 0.0, 6.0))
            await self._back(node)
            self._say(f"sigkill: {node.name} is back")

    async def _back(self, node: ServerProcess) -> None:
        """Start it again, unless another fault has done it; one may also kill it meanwhile."""
        async with self._locks.setdefault(f"start of {node.name}", asyncio.Lock()):
            for _ in range(STARTS):
                if node.running:
                    return
                with suppress(RuntimeError):
                    await asyncio.to_thread(node.start)
            if not node.running:
                await asyncio.to_thread(node.start)  # and say why it cannot

    async def _sigstop(self, chance: random.Random) -> None:
        node = chance.choice(self._place.nodes)
        async with self._only(node.name) as in_time:
            if not in_time:
                return
            pause = self._time(chance, 1.0, LONGEST_PAUSE)
            self._note("sigstop", f"{node.name} for {pause:.1f} s")
            node.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(pause)
            finally:
                node.signal(signal.SIGCONT)
            self._say(f"sigstop: {node.name} goes on")

    async def _drains(self, chance: random.Random) -> None:
        two = chance.sample(self._place.nodes, 2)
        async with self._only(*(node.name for node in two)) as in_time:
            if not in_time:
                return
            self._note("drains", " and ".join(node.name for node in two))
            await asyncio.gather(
                *(self._command("--node", node.name, "--timeout", "6") for node in two)
            )
            await asyncio.sleep(self._time(chance, 0.0, 4.0))
            for node in two:
                await self._command("--node", node.name, "--undo", "--timeout", "6")
            self._say(f"drains: {' and '.join(node.name for node in two)} accept again")

    async def _command(self, *arguments: str) -> None:
        # It may fail: the database can be away. What counts is what becomes of the messages.
        await asyncio.to_thread(self._place.drain_connections, *arguments)

    # --- what they stand on -------------------------------------------------------------------

    async def _redis(self, chance: random.Random) -> None:
        redis = self._place.redis
        assert redis is not None
        async with self._only("redis") as in_time:
            if not in_time:
                return
            self._note("redis", "killed")
            redis.kill()
            await asyncio.sleep(self._time(chance, 0.5, 5.0))
            await asyncio.to_thread(redis.restart)
            self._say("redis: back, empty")

    async def _postgres(self, chance: random.Random) -> None:
        postgres = self._place.postgres
        assert postgres is not None
        async with self._only("postgres") as in_time:
            if not in_time:
                return
            self._note("postgres", "killed")
            postgres.kill()
            await asyncio.sleep(self._time(chance, 0.0, 4.0))
            await asyncio.to_thread(postgres.restart)
            self._say("postgres: back")

    # --- the network --------------------------------------------------------------------------

    async def _cut(self, chance: random.Random) -> None:
        """Each is back at once, or after less than the grace of an exit, or after more."""
        some = self._some(chance)
        low, high = chance.choice([(0.0, 0.0), (0.3, 1.5), (1.3, 2.5), (4.0, 8.0)])
        away = self._time(chance, low, high)
        names = ", ".join(visitor.diary.name for visitor in some)
        self._note("cut", f"{names} for {away:.1f} s")
        for visitor in some:
            if away:
                visitor.keep_away()
            await visitor.cut(reset=chance.random() < 0.7)
        await asyncio.sleep(away)
        for visitor in some:
            visitor.heal()

    async def _swallow(self, chance: random.Random) -> None:
        some = self._some(chance)
        pause = self._time(chance, 1.0, 12.0)
        names = ", ".join(visitor.diary.name for visitor in some)
        self._note("swallow", f"{names} for {pause:.1f} s")
        for visitor in some:
            visitor.swallow(chance.choice([None, None, "to_server", "to_client"]))
        await asyncio.sleep(pause)
        for visitor in some:
            visitor.heal()
        self._say(f"swallow: {names} are heard again")

    def _some(self, chance: random.Random) -> list[Visitor]:
        present = [visitor for visitor in self._visitors if visitor.diary.stayed]
        return chance.sample(present, max(1, len(present) * chance.randint(1, 5) // 10))
