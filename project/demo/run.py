"""The demo as a person runs it: until Ctrl-C."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

from project.demo.supervisor import Supervisor, check_ports

BANNER = """
graceful_ws demo

  Open    {url}/
  Admin   {url}/admin/   login: admin   password: {password}   (new at each start)
  Nodes   node-1 on port {first}, node-2 on port {second}; database and logs in {directory}

  Ctrl-C drains both nodes and ends.
"""


async def run(directory: Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """Runs the demo until SIGINT or SIGTERM; a second one does not wait for clients to leave.

    ``directory`` is made, and gets the database and the logs. Raises DemoError.
    """
    ports = [port, port + 1]
    check_ports(host, ports)
    password = secrets.token_urlsafe(9)
    site = Supervisor(
        directory, ports, host=host, env={"DJANGO_SECRET_KEY": secrets.token_urlsafe(50)}, say=say
    )
    told = asyncio.Event()

    def on_signal() -> None:
        if told.is_set():
            site.end(signal.SIGTERM)
        told.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    say("Preparing the database, starting two nodes ...")
    await site.prepare(password)
    async with site:
        if not told.is_set():
            first, second = ports
            url = f"http://{f'[{site.near}]' if ':' in site.near else site.near}:{port}"
            say(BANNER.format_map(locals()))
        await told.wait()
        say("Draining both nodes; Ctrl-C again does not wait for clients ...")
    say("Ended.")
