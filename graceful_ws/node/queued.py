"""What waits to be sent to one client: frames in order, acknowledgements merged."""

from __future__ import annotations

from typing import Any

from graceful_ws.core.frames import MAX_ARRAY, Ack, encode

ARRAY_BYTES = 256 * 1024  # several frames travel together up to this size

Message = tuple[list[Any], bool]  # frames, and whether one of them is an application message


class Queued:
    """Of one connection. Control frames, application messages, nacks and one acknowledgement."""

    __slots__ = ("_ack", "_frames", "_nacks", "_results", "bytes", "control", "raw")

    def __init__(self, *, raw: bool) -> None:
        self.raw = raw  # a plain client: data without frames, each for itself
        self.bytes = 0
        self.control = 0  # frames that are no application messages
        self._frames: list[tuple[Any, bool]] = []  # (frame, is an application message)
        self._ack: int | None = None
        self._results: dict[str, Any] = {}
        self._nacks: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._frames) or self._ack is not None

    def __len__(self) -> int:
        """Frames without the acknowledgements, which have no bound to keep: they are merged."""
        return len(self._frames)

    def put(self, frame: str | bytes, application: bool) -> None:
        self._frames.append((frame, application))
        self.bytes += len(frame)
        if not application:
            self.control += 1

    def acknowledge(self, seq: int, nack: str | None) -> None:
        """Up to ``seq``. A ``nack`` frame goes before it."""
        if nack is not None:
            self._nacks.append(nack)
        if self._ack is None or seq > self._ack:
            self._ack = seq

    def result(self, seq: int, result: Any) -> None:
        """Goes with the acknowledgement that is queued."""
        self._results[str(seq)] = result

    def take(self) -> Message:
        """What goes as one WebSocket message."""
        queue = self._frames
        nacks = self._nacks[: MAX_ARRAY // 2]
        limit = 1 if self.raw else MAX_ARRAY - len(nacks) - (self._ack is not None)
        frames: list[Any] = []
        size = 0
        application = False
        for frame, is_message in queue:
            if len(frames) >= limit or size >= ARRAY_BYTES:
                break
            if is_message:
                application = True
            else:
                self.control -= 1
            size += len(frame)
            frames.append(frame)
        del queue[: len(frames)]
        self.bytes -= size
        # Behind what waited: nothing comes before the welcome.
        if nacks:
            frames += nacks
            del self._nacks[: len(nacks)]
        if self._ack is not None and not self._nacks:
            frames.append(encode(Ack(seq=self._ack, results=self._results)))
            self._ack = None
            if self._results:
                self._results = {}
        return frames, application

    def clear(self) -> None:
        self._frames.clear()
        self._nacks.clear()
        self._ack = None
        self.bytes = self.control = 0
