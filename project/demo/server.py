"""``python -m project.demo.server NAME HOME``: a server that ends with its supervisor."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from project.demo import lifeline
from project.demo.servers import KINDS, TEMPORARY

NODES_FIRST = 3.0  # seconds that a node has, after a supervisor that was killed, to say goodbye


def main(name: str, home: Path) -> int:
    server = KINDS[name](home)
    told: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def end(number: int, frame: FrameType | None) -> None:
        if child is None:
            sys.exit(0)
        child.send_signal(server.ends_by[min(len(told), 1)])
        told.append(number)

    signal.signal(signal.SIGTERM, end)
    lifeline.hold(NODES_FIRST)
    command = server.command()
    child = subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, **server.account())
    status = child.wait()
    if told and home.name.startswith(TEMPORARY):
        shutil.rmtree(home, ignore_errors=True)
    return 0 if told else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
