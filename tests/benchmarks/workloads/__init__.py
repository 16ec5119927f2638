"""The workloads by name, in the order in which they run."""

from __future__ import annotations

from tests.benchmarks.workload import Workload

from .broadcast import Broadcast, BroadcastScale
from .echo import EchoLight, EchoPlain, EchoReliable, Generator, RoundTrip
from .idle import IdleCpu, IdleMemory
from .journal import Journal
from .storms import ConnectStorm, ResumeStorm

WORKLOADS: dict[str, type[Workload]] = {
    workload.name: workload
    for workload in (
        *(Generator, EchoLight, EchoPlain, EchoReliable, RoundTrip),
        *(Broadcast, BroadcastScale, ConnectStorm, ResumeStorm, IdleMemory, IdleCpu),
        Journal,
    )
}
