"""A process of the site without a connection: what a task queue, a view or a shell would be."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from tests.support.processes import ROOT

WITHIN = 60.0  # seconds for a piece of code on a busy machine

PROGRAM = """
import json, os, sys, time
import django
django.setup()
from django.db import transaction
from graceful_ws.publishing import *
class Undone(Exception): pass
for line in sys.stdin:
    try:
        exec(json.loads(line))
        answer = None
    except Exception as error:
        answer = repr(error)
    print(json.dumps(answer), flush=True)
"""


class Outside:
    """Runs code there, piece by piece, with ``publish`` and its like at hand."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def run(self, code: str) -> None:
        """Returns when the code has run. AssertionError with what it raised."""
        await self.start(code)
        await self.done()

    async def start(self, code: str) -> None:
        """Returns at once; ``done`` waits."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        await self.process.stdin.drain()

    async def done(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN):
            line = await self.process.stdout.readline()
        assert line, "the process has ended"
        answer = json.loads(line)
        assert answer is None, answer

    async def died(self) -> int:
        async with asyncio.timeout(WITHIN):
            return await self.process.wait()


@asynccontextmanager
async def outside(env: Mapping[str, str]) -> AsyncIterator[Outside]:
    """A process with the settings of a site (``site.env``); it ends with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env=dict(env),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Outside(process)
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
