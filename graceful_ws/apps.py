"""The Django application: adapters for the ASGI servers are installed when it is ready."""

from __future__ import annotations

from importlib.util import find_spec

from django.apps import AppConfig


class GracefulWsConfig(AppConfig):
    name = "graceful_ws"
    label = "graceful_ws"
    verbose_name = "Live connections"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, checks_deploy, logout  # noqa: F401  (checks register themselves)
        from .node.drain import adapt_servers

        adapt_servers()
        logout.connect()
        if find_spec("prometheus_client") is not None:  # an extra
            from . import metrics

            metrics.install()
