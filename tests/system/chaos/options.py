"""What can be asked of a chaos run. Durations are seconds."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

FAULTS = {
    "sigterm": "SIGTERM to each node in turn, each started again",
    "sigkill": "SIGKILL to a node, which is started again",
    "sigstop": "SIGSTOP to a node for 1 to 20 s, then SIGCONT",
    "redis": "Redis killed, and started again empty",
    "postgres": "PostgreSQL killed, and started again",
    "cut": "TCP connections of some clients reset, and new ones refused for 0 to 8 s",
    "swallow": "connections of some clients carry nothing, and neither end is told",
    "drop": "20 % of the channel layer's messages are lost, all the time",
    "drains": "drain_connections for two nodes at once, then --undo",
}
LAYERS = ("pubsub", "core", "none")
DATABASES = ("postgres", "sqlite")
DROPPED = 0.2  # of the layer's messages

EXAMPLES = """\
examples:
  python -m tests.system.chaos                                    half a minute of everything
  python -m tests.system.chaos --seconds 600 --seed 7             ten minutes, another order
  python -m tests.system.chaos --faults sigkill,redis --json      two kinds, one JSON line
  python -m tests.system.chaos --faults none                      traffic without a fault
  python -m tests.system.chaos --database sqlite --layer none     what pip alone brings

faults:
{faults}

The same seed gives the same faults in the same order; what they hit is for the clock to say.
Progress goes to standard error, the outcome to standard output.

exit status:
  0    nothing lost, duplicated, out of order or wrong
  1    a violation; the directory with the ledger and the nodes' logs is named
  130  interrupted"""


@dataclass(frozen=True)
class Options:
    seconds: float = 30.0
    seed: int = 1
    faults: tuple[str, ...] = tuple(FAULTS)
    clients: int = 12
    rooms: int = 4
    nodes: int = 3
    rate: float = 5.0
    layer: str = "pubsub"
    database: str = "postgres"
    settle: float = 60.0
    json: bool = False
    directory: Path | None = field(default=None)


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; ends the process with a usage error, or after ``--help``."""
    defaults = Options()
    faults = "\n".join(f"  {name:<9} {what}" for name, what in FAULTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.chaos",
        description=(
            "Runs clients in rooms on several nodes, breaks everything around them, and compares"
            " what was accepted with what arrived: nothing may be lost, doubled or out of order,"
            " and whoever leaves is announced once."
        ),
        epilog=EXAMPLES.format(faults=faults),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=positive, default=defaults.seconds, help="of traffic and faults (30)")
    add("--seed", type=int, default=defaults.seed, help="of all random choices (1)")
    add("--faults", default="all", help="names with commas, `all` or `none` (all)")
    add("--clients", type=at_least_one, default=defaults.clients, help="how many (12)")
    add("--rooms", type=at_least_one, default=defaults.rooms, help="each client is in two (4)")
    add("--nodes", type=at_least_one, default=defaults.nodes, help="Daphne processes (3)")
    add("--rate", type=positive, default=defaults.rate, help="messages/s per client and way (5)")
    add("--layer", choices=LAYERS, default=defaults.layer, help="channel layer (pubsub)")
    add("--database", choices=DATABASES, default=defaults.database, help="(postgres)")
    add("--settle", type=positive, default=defaults.settle, help="deadline for the rest (60)")
    add("--directory", type=Path, help="for ledger and logs (a temporary one)")
    add("--json", action="store_true", help="the outcome as one JSON line")
    given = vars(parser.parse_args(arguments))
    try:
        given["faults"] = chosen(given["faults"])
    except ValueError as error:
        parser.error(str(error))
    return Options(**given)


def chosen(text: str) -> tuple[str, ...]:
    """The names in a ``--faults`` argument. Raises ValueError for one that is unknown."""
    if text == "none":
        return ()
    names = tuple(FAULTS) if text == "all" else tuple(filter(None, text.split(",")))
    for name in names:
        if name not in FAULTS:
            raise ValueError(f"no fault {name!r}; there are {', '.join(FAULTS)}, all and none")
    return names


def possible(options: Options) -> tuple[str, ...]:
    """The faults asked for, without those that need what this run does not have."""
    missing = set()
    if options.database != "postgres":
        missing.add("postgres")
    if options.layer == "none":
        missing |= {"redis", "drop"}
    if options.nodes < 2:
        missing.add("drains")
    return tuple(name for name in options.faults if name not in missing)


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
