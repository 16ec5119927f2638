"""The consumers that the tests talk to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from graceful_ws.consumers import GracefulConsumer


class Echo(GracefulConsumer):
    """Does what a message asks, and sends it back."""

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        if not isinstance(content, dict):
            await self.send_json(content)
            return None
        if "sleep" in content:
            await asyncio.sleep(content["sleep"])
        if "fail" in content:
            raise RuntimeError(content["fail"])
        if "close" in content:
            await self.close(content["close"], content.get("reason"))
            return None
        for n in range(content.get("send", 0)):
            await self.send_json({"n": n, "pad": "x" * content.get("pad", 0)})
        if content.get("echo", True):
            await self.send_json(content)
        return content.get("result")


class Light(Echo):
    resumable = False


class Ledger(GracefulConsumer):
    """Ticks by itself, and writes down, outside the process, what was accepted and handled."""

    async def session_started(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def resumed(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            number = self._write("accepted", 1)
            await self.send_json({"tick": number})
            await asyncio.sleep(0.02)

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        self._write("handled", content["n"])
        return {"handled": content["n"]}

    def _write(self, kind: str, value: Any) -> Any:
        path = Path(os.environ["GRACEFUL_TEST_LEDGER"]) / f"{self.session_id}.{kind}"
        with path.open("a") as file:
            file.write(f"{value}\n")
        return value

    async def disconnect(self, code: int) -> None:
        ticking = getattr(self, "_ticking", None)
        if ticking is not None:
            ticking.cancel()


class InTransaction(GracefulConsumer):
    def receive_in_transaction(self, content: Any) -> Any:
        self.reply(content)
        return content.get("result") if isinstance(content, dict) else None
