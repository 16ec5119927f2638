"""``python -m tests.benchmarks``: the command line, and how results are printed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import django

# Databases are made with Django's help, in this process without graceful_ws.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.settings"
os.environ["GRACEFUL_BENCHMARK_BARE"] = "1"
django.setup()

from tests.benchmarks.bench import SERVERS, Bench  # noqa: E402
from tests.benchmarks.machine import cores, raise_file_limit  # noqa: E402
from tests.benchmarks.running import Outcome, run  # noqa: E402
from tests.benchmarks.workload import Row  # noqa: E402
from tests.benchmarks.workloads import WORKLOADS  # noqa: E402

ROUNDS, QUICK_ROUNDS = 5, 3


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures graceful_ws beside bare Channels, in the same run, taking turns: "
        "the server on one core, the load on the other. Ratio > 1: graceful_ws is better.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads; all without one")
    parser.add_argument("--server", choices=SERVERS, default="daphne")
    parser.add_argument(
        "--db", choices=("sqlite", "postgres"), help="where ours keeps messages; see --list"
    )
    parser.add_argument("--quick", action="store_true", help="small and short: to try things")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each result")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}; {QUICK_ROUNDS} with --quick")
    parser.add_argument("--list", action="store_true", help="the workloads, and no run")
    parser.add_argument("--verbose", action="store_true", help="each turn, as it ends")
    parser.add_argument(
        "--profile", type=Path, metavar="DIRECTORY", help="py-spy's stacks of ours; costs speed"
    )
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is at least 1")
    return options


def main() -> int:
    options = arguments()
    if options.list:
        for workload in WORKLOADS.values():
            print(f"{workload.name:17}{workload.db:10}{workload.about}")
        return 0
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    limit = raise_file_limit()
    if limit < 12_000:
        print(f"! only {limit} open files: the large workloads need 12,000", file=sys.stderr)
    os.sched_setaffinity(0, {cores()[1]})  # whatever is started inherits it, but the servers
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    failures = 0
    with ExitStack() as stack:
        bench = stack.enter_context(Bench(options.server))
        if not options.json:
            print(HEADING)
        for name in options.names or WORKLOADS:
            chosen = WORKLOADS[name]()
            try:
                outcome = run(
                    chosen,
                    bench,
                    db=options.db or chosen.db,
                    rounds=rounds,
                    quick=options.quick,
                    profiles=options.profile,
                    told=lambda text: options.verbose and print(f"  {text}", file=sys.stderr),
                )
            except (AssertionError, OSError, TimeoutError) as error:
                print(f"! {name}: {error or type(error).__name__}", file=sys.stderr)
                failures += 1
                continue
            show(outcome, as_json=options.json)
    return 1 if failures else 0


HEADING = (
    f"{'workload':32}{'server':9}{'db':10}{'ours':>11}{'rival':>11}{'ratio':>8}"
    f"{'limit':>11}  {'unit':14}{'rounds':>6}"
)


def show(outcome: Outcome, *, as_json: bool) -> None:
    for row in outcome.rows:
        print(json.dumps(row.as_json()) if as_json else line(row), flush=True)
    out = sys.stderr if as_json else sys.stdout
    for row in outcome.per_cpu:
        print(
            f"    {row.workload} per second of the server's processor: ours {number(row.ours)},"
            f" rival {number(row.rival)}, ratio {ratio(row)}, limit {number(row.limit)}",
            file=out,
        )
    for name, value in outcome.facts.items():
        print(f"    {name}: {number(value)}", file=out)
    for side, usage in outcome.usages.items():
        print(
            f"    {side}: server {usage.server:.0%} of its core; generator"
            f" {usage.generator:.0%}, with the databases {usage.load_core:.0%} of the other",
            file=out,
        )
    for warning in outcome.warnings():
        print(f"  ! {warning}", file=out)
    out.flush()


def line(row: Row) -> str:
    return (
        f"{row.workload:32}{row.server:9}{row.db:10}{number(row.ours):>11}{number(row.rival):>11}"
        f"{ratio(row):>8}{number(row.limit):>11}"
        f"  {row.unit:14}{row.rounds:>6}"
    )


def ratio(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.2f}"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
