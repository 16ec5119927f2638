"""The Django application: adapters for the ASGI servers are installed when it is ready."""

from __future__ import annotations

from django.apps import AppConfig


class GracefulWsConfig(AppConfig):
    name = "graceful_ws"
    label = "graceful_ws"
    verbose_name = "Live connections"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers the system checks)
        from .conf import settings
        from .node.drain import drain_process, hurry_process
        from .servers import install

        if settings.adapt_servers:
            install(drain_process, hurry_process)
