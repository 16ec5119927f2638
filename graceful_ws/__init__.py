"""WebSockets for Django Channels that survive deploys, crashes and dropped networks."""

__version__ = "0.1.0"
