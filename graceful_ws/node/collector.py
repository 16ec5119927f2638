"""The garbage collector of a process that holds thousands of connections.

What Django and the project have loaded is there for good, and a connection lives for long. The
collector's defaults look at all of it again and again while connections come: in a storm of 2,000
that took two fifths of the process's time, in pauses of 0.2 s.
"""

from __future__ import annotations

import gc

from graceful_ws.conf import settings

OBJECTS = 10_000  # more of them than were freed, then the young ones are looked at

_settled = False


def settle() -> None:
    """Once a process, when everything is loaded: the collector need not look at that any more
    (``gc.freeze``), and at what is new more rarely. A threshold that is higher already, or a
    collector that is switched off, is left alone; so is all with ``tune_gc`` off."""
    global _settled
    if _settled or not settings.tune_gc or not gc.isenabled():
        return
    _settled = True
    young, *older = gc.get_threshold()
    if 0 < young < OBJECTS:
        gc.set_threshold(OBJECTS, *older)
    gc.collect()
    gc.freeze()
