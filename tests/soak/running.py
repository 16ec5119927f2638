"""A command of ours under a test's eyes: what it says while it runs, and how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Mapping
from typing import IO, Any

from tests.support.processes import ROOT
from tests.support.waiting import eventually


class Running:
    """Python with these arguments; killed at the end of the block if it still runs."""

    def __init__(
        self, *arguments: str, env: Mapping[str, str], stdin: IO[bytes] | int | None = None
    ) -> None:
        self._arguments = arguments
        self._env = env
        self._stdin = asyncio.subprocess.PIPE if stdin is None else stdin
        self.out = self.err = ""

    async def __aenter__(self) -> Running:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            env=dict(self._env),
            cwd=ROOT,
            stdin=self._stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._readers = [
            asyncio.create_task(self._read("out", self._process.stdout)),
            asyncio.create_task(self._read("err", self._process.stderr)),
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        self.end_input()
        await self._process.wait()
        await asyncio.gather(*self._readers)

    async def _read(self, name: str, stream: Any) -> None:
        while chunk := await stream.read(4096):
            setattr(self, name, getattr(self, name) + chunk.decode())

    def write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def end_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def says(self, pattern: str, within: float = 20.0) -> None:
        """Waits for it, on either output."""

        def said() -> bool:
            return bool(re.search(pattern, self.out + self.err))

        await eventually(said, within, f"says {pattern!r}")

    async def ends(self, within: float = 30.0) -> int:
        """Waits for the end; returns the exit status."""
        async with asyncio.timeout(within):
            status = await self._process.wait()
            await asyncio.gather(*self._readers)
        return status
