"""``python -m tests.system.chaos``: see ``--help``."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import django

from tests.system.chaos.options import Options, parse

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    # Only now: the usage is there at once, and the models need the settings.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    kept = options.directory is not None
    directory = options.directory or Path(tempfile.mkdtemp(prefix="chaos"))
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        print(f"{directory} is not empty: a run needs a directory of its own.", file=sys.stderr)
        return 2
    try:
        bad = _run(options, directory)
    except KeyboardInterrupt:
        print(f"Interrupted; ledger and logs are in {directory}", file=sys.stderr)
        return INTERRUPTED
    except BaseException:
        print(f"The run failed; ledger and logs are in {directory}", file=sys.stderr)
        raise
    if not bad and not kept:
        shutil.rmtree(directory)
    return int(bad)


def _run(options: Options, directory: Path) -> bool:
    """Whether something was violated."""
    from tests.system.chaos.place import Place
    from tests.system.chaos.run import Run, table

    began = time.monotonic()
    with (directory / "progress").open("w") as progress:

        def say(text: str) -> None:
            line = f"{time.monotonic() - began:6.1f}  {text}"
            print(line, file=sys.stderr, flush=True)
            # With the time of day, by which the nodes' logs go.
            print(f"{time.strftime('%H:%M:%S')} {line}", file=progress, flush=True)

        place = Place(options, directory)
        try:
            say(f"starting {options.nodes} nodes, seed {options.seed}")
            place.start()
            outcome = asyncio.run(Run(options, place, say).go())
        finally:
            place.close()
    answer = outcome.as_dict()
    if outcome.violations:
        answer["directory"] = str(directory)
    if options.json:
        print(json.dumps(answer))
    else:
        print(table(outcome))
        if outcome.violations:
            print(f"Ledger and logs: {directory}")
    return bool(outcome.violations)


if __name__ == "__main__":
    sys.exit(main())
