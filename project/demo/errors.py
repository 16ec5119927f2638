from __future__ import annotations


class DemoError(Exception):
    """The demo cannot run; the message is one line for the user."""
