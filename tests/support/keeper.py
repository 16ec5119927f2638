"""Ends the servers that a test run leaves behind, even when the run was killed with SIGKILL.

Started by ``processes.py`` as a script. Its standard input is a pipe whose other end only the test
run holds: at end of file the run is over, however it ended. One line is one order:

    add PID SIGNAL    the leader of a process group to end with that signal
    remove PID        it has been reaped
    clear PATH        a directory to delete at the end
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress


def main() -> None:
    signals: dict[int, int] = {}
    directories: list[str] = []
    for line in sys.stdin:
        order, _, rest = line.strip().partition(" ")
        if order == "add":
            pid, number = rest.split()
            signals[int(pid)] = int(number)
        elif order == "remove":
            signals.pop(int(rest), None)
        elif order == "clear":
            directories.append(rest)
    for pid, number in signals.items():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
    if signals:
        time.sleep(0.3)  # for PostgreSQL to remove its shared memory
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
