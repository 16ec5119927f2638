"""The demo as a person runs it: until Ctrl-C."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

from project.demo.servers import servers_of_our_own
from project.demo.supervisor import Say, Supervisor, check_ports

BANNER = """
graceful_ws demo

  Open    {url}/
  Admin   {url}/admin/   login: admin   password: {password}   (new at each start)
  Nodes   node-1 on port {first}, node-2 on port {second}; state and logs in {directory}
{urls}
  Ctrl-C drains both nodes and ends.
"""


async def run(directory: Path, host: str, port: int, names: Sequence[str], say: Say) -> None:
    """Runs the demo until SIGINT or SIGTERM; a second one does not wait for clients to leave.

    ``directory`` is made, and gets the database and the logs. ``names``: servers to start, of
    ``project.demo.servers``. Raises DemoError.
    """
    ports = [port, port + 1]
    check_ports(host, ports)
    servers = servers_of_our_own(names, directory)
    password = secrets.token_urlsafe(9)
    env = {"DJANGO_SECRET_KEY": secrets.token_urlsafe(50)}
    site = Supervisor(
        directory, ports, host=host, password=password, servers=servers, env=env, say=say
    )
    told = asyncio.Event()

    def on_signal() -> None:
        if told.is_set():
            site.end(signal.SIGTERM)
        told.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    async with site:
        if not told.is_set():
            first, second = ports
            url = f"http://{f'[{site.near}]' if ':' in site.near else site.near}:{port}"
            urls = "".join(f"  {server.variable}={server.url}\n" for server in servers)
            say(BANNER.format_map(locals()))
        await told.wait()
        say("Draining both nodes; Ctrl-C again does not wait for clients ...")
    say("Ended.")
