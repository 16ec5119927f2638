"""The live dashboard's page in the admin, and what its buttons post to.

What it shows comes over a WebSocket (graceful_ws.live); what it asks for is a POST, with the rules
of the admin: a permission, the CSRF token, a line in the audit trail.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django import forms
from django.apps import apps as registry
from django.apps.registry import Apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from graceful_ws.admin_base import ReasonForm
from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CloseCode, cut_reason
from graceful_ws.envelopes import NODES, ask, node_envelope, nudge
from graceful_ws.live.consumer import may_watch, urls
from graceful_ws.models import Session
from graceful_ws.store import nodes
from graceful_ws.store.base import alias


class Live(models.Model):
    """No table: it gives the dashboard its place among the models of the admin. In a registry of
    its own, so that migrations and permissions do not know it."""

    class Meta:
        apps = Apps()
        app_label = "graceful_ws"
        managed = False
        default_permissions = ()
        verbose_name = gettext_lazy("live dashboard")
        verbose_name_plural = gettext_lazy("live dashboard")

    def __str__(self) -> str:
        return "live"


class Wish(ReasonForm):
    """What a button posts: which node or session, and why."""

    id = forms.UUIDField()
    needs_reason = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = self.needs_reason


class WishWithReason(Wish):
    needs_reason = True


class Refused(Exception):
    """It cannot be done, and why."""


@admin.register(Live)
class LiveAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """One page, for staff who may view nodes and sessions."""

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("", wrap(self.page), name="graceful_ws_live_changelist"),
            path("drain/", wrap(self._wish("drain_node", Wish, _drain)), name="graceful_ws_drain"),
            path("undo/", wrap(self._wish("drain_node", Wish, _undo)), name="graceful_ws_undo"),
            path(
                "close/",
                wrap(self._wish("close_session", WishWithReason, _close)),
                name="graceful_ws_close",
            ),
        ]

    # --- who may ------------------------------------------------------------------------------

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_watch(request.user)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # --- the page -----------------------------------------------------------------------------

    def page(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        site = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": _("Live dashboard"),
            "opts": self.opts,
            "app_name": registry.get_app_config(self.opts.app_label).verbose_name,
            "urls": " ".join(urls()),
            "probe": _probe(),
            "path": settings.live_url,
            "can": {
                "drain": request.user.has_perm("graceful_ws.drain_node"),
                "close": request.user.has_perm("graceful_ws.close_session"),
            },
            "sessions_url": reverse(f"{site}:graceful_ws_session_changelist"),
            "nodes_url": reverse(f"{site}:graceful_ws_node_changelist"),
        }
        return TemplateResponse(request, "admin/graceful_ws/live.html", context)

    def _wish(
        self,
        permission: str,
        form_class: type[Wish],
        do: Callable[[uuid.UUID, str, str], str],
    ) -> Callable[..., HttpResponse]:
        @require_POST
        def view(request: HttpRequest) -> HttpResponse:
            allowed = self.has_view_permission(request)
            if not (allowed and request.user.has_perm(f"graceful_ws.{permission}")):
                return JsonResponse({"error": _("You have no permission for this.")}, status=403)
            form = form_class(request.POST)
            if not form.is_valid():
                return JsonResponse({"error": _first(form)}, status=400)
            reason = cut_reason(form.cleaned_data["reason"])
            try:
                said = do(form.cleaned_data["id"], reason, request.user.get_username())
            except Refused as refused:
                return JsonResponse({"error": str(refused)}, status=409)
            return JsonResponse({"said": said})

        return view


def _first(form: forms.Form) -> str:
    """The first error of a form, in words."""
    name, errors = next(iter(form.errors.items()))
    label = form.fields[name].label or name.capitalize()
    message = errors.as_data()[0] if hasattr(errors, "as_data") else ValidationError(str(errors))
    return f"{label}: {message.messages[0]}"


def _probe() -> str:
    """The page by which the client compares nodes; "" when the site has not mounted it."""
    try:
        return reverse("graceful_ws:ping")
    except NoReverseMatch:
        return ""


# --- what the buttons do ------------------------------------------------------------------------


def _drain(node: uuid.UUID, reason: str, actor: str) -> str:
    if not nodes.ask_drain([node], {"reason": reason or None}, actor=actor):
        raise Refused(_("It is not up: nothing to drain."))
    return _asked()


def _undo(node: uuid.UUID, reason: str, actor: str) -> str:
    if not nodes.ask_undo([node], actor=actor, reason=reason):
        raise Refused(_("Nobody asked it to drain: nothing to undo."))
    return _asked()


def _asked() -> str:
    # After the commit, lest it look too early.
    transaction.on_commit(lambda: nudge(NODES, node_envelope()), using=alias())
    return str(_("Asked; it happens within %d seconds.") % settings.beat_interval)


def _close(session: uuid.UUID, reason: str, actor: str) -> str:
    rows = Session.objects.using(alias()).filter(uuid=session)
    concerned = {node for node in rows.values_list("node", flat=True) if node is not None}
    code = CloseCode.CLOSED_BY_OPERATOR
    if not nodes.end_session(session, code, reason, actor=actor):
        raise Refused(_("It has ended already."))
    transaction.on_commit(lambda: ask(concerned), using=alias(), robust=True)
    late = _("Closed; its connection, if any, ends within %d seconds.")
    return str(late % settings.round_interval)
