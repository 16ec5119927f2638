"""The workloads by name, in the order in which they run."""

from __future__ import annotations

from tests.benchmarks.workload import Workload

from .broadcast import Broadcast, BroadcastScale
from .drain import Drain
from .echo import EchoLight, EchoPlain, EchoReliable, Generator, RoundTrip
from .gaps import Gaps
from .growth import ResumeGrowth
from .idle import IdleCpu, IdleMemory
from .journal import Journal
from .publish import Publish
from .storms import ConnectStorm, ResumeStorm

WORKLOADS: dict[str, type[Workload]] = {
    workload.name: workload
    for workload in (
        *(Generator, EchoLight, EchoPlain, EchoReliable, RoundTrip),
        *(Broadcast, BroadcastScale, ConnectStorm, ResumeStorm, IdleMemory, IdleCpu),
        *(ResumeGrowth, Drain, Gaps, Publish, Journal),
    )
}
