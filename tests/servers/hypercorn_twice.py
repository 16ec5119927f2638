"""Two servers of hypercorn in one process, on the ports given: the first one stops, and then the
second one has to serve on for longer than the first one would have waited. Prints what it saw."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from graceful_ws import servers

GRACEFUL_TIMEOUT = 0.5


async def drain() -> None:
    pass


async def listens(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "served"})


async def main(ports: list[str]) -> None:
    servers.install(drain, lambda: None)
    stops = [asyncio.Event() for _ in ports]
    running = []
    for port, stop in zip(ports, stops, strict=True):
        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        config.graceful_timeout = GRACEFUL_TIMEOUT
        running.append(asyncio.create_task(serve(application, config, shutdown_trigger=stop.wait)))
    for port in ports:
        await listens(int(port))
    async with connect(f"ws://127.0.0.1:{ports[1]}/") as client:
        await client.send("hello")
        print(await client.recv(), flush=True)
        stops[0].set()
        await running[0]
        try:
            async with asyncio.timeout(GRACEFUL_TIMEOUT + 1):
                await client.recv()
        except TimeoutError:
            await client.send("hello")
            print(await client.recv(), flush=True)
        except ConnectionClosed as error:
            print(repr(error), flush=True)
    stops[1].set()
    await running[1]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
