"""The fastest echo that Python has, to measure the load generator: a picows server.

``python -m tests.benchmarks.echo_server PORT``; a client that offers ``graceful.v1`` is served as
far as the clients of these benchmarks need it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import uvloop
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

WELCOME = (
    b'{"type":"welcome","session_id":"1","session_token":"1","resumed":false,'
    b'"last_client_seq":0,"head":0,"streams":{}}'
)


class Message(msgspec.Struct):
    type: str
    seq: int = 0
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(Message).decode


class Plain(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


class Graceful(WSListener):
    """Numbers what it echoes and acknowledges, and remembers nothing."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()
            return
        message = _decode(frame.get_payload_as_memoryview())
        if message.type == "message":
            transport.send(
                WSMsgType.TEXT,
                b'[{"type":"message","seq":%d,"data":%b},{"type":"ack","seq":%d}]'
                % (message.seq, bytes(message.data), message.seq),
            )
        elif message.type == "hello":
            transport.send(WSMsgType.TEXT, WELCOME)
        elif message.type == "bye":
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()


def _serve(request: WSUpgradeRequest) -> Any:
    if "Sec-WebSocket-Protocol" not in request.headers:
        return Plain()
    headers = {"Sec-WebSocket-Protocol": "graceful.v1"}
    return WSUpgradeResponseWithListener(
        WSUpgradeResponse.create_101_response(extra_headers=headers), Graceful()
    )


async def main() -> None:
    server = await ws_create_server(_serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
