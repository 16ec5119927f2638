"""What the admin's pages share: no writing, a question before an action, ages and badges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import Model, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.request import QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from graceful_ws.core.close_codes import MAX_REASON_BYTES
from graceful_ws.store.base import alias

CONFIRMED = "confirmed"  # the name of the button on the page that asks
ITEMS_SHOWN = 20

TONES = {
    "attached": "good",
    "up": "good",
    "draining": "warn",
    "drained": "warn",
    "dead": "bad",
}


class ConfirmForm(forms.Form):
    """Nothing to fill in."""


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=MAX_REASON_BYTES,
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
        help_text=_("Clients and the audit trail are told; at most 123 bytes."),
    )

    def clean_reason(self) -> str:
        reason: str = self.cleaned_data["reason"]
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise forms.ValidationError(_("A close frame has room for 123 bytes."))
        return reason


class ObjectAction(NamedTuple):
    """An action that the page of one object offers too: the method's name, the button's label,
    the permission as in ``has_…_permission``, and for which objects."""

    name: str
    label: Any
    permission: str
    applies: Callable[[Any], bool]


class Section(NamedTuple):
    """A table below the fields of one object; ``empty`` stands there instead when it has no rows,
    ``more`` is the number of rows left out."""

    title: Any
    columns: Sequence[Any]
    rows: Sequence[Sequence[Any]]
    empty: Any = ""
    more: int = 0


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that only the nodes write."""

    change_form_template = "admin/graceful_ws/change_form.html"
    list_per_page = 50
    show_full_result_count = False

    class Media:
        css = {"all": ["graceful_ws/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(alias())

    def get_sections(self, request: HttpRequest, obj: Any) -> list[Section]:
        """What the page of one object shows below its fields."""
        return []

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["sections"] = self.get_sections(request, kwargs["obj"])
        return super().render_change_form(request, context, *args, **kwargs)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class AskingAdmin(ReadOnlyAdmin):
    """Actions that ask first, from the list and from the page of one object."""

    change_list_template = "admin/graceful_ws/change_list.html"
    object_actions: Sequence[ObjectAction] = ()

    def get_object_links(self, obj: Model) -> list[tuple[str, Any]]:
        """Further links on the page of one object: (url, label)."""
        return []

    def get_urls(self) -> list[URLPattern]:
        urls = [
            path(
                f"<path:object_id>/{action.name}/",
                self.admin_site.admin_view(self._object_view(action)),
                name=self._url_name(action.name),
            )
            for action in self.object_actions
        ]
        return urls + super().get_urls()

    def _url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def _object_view(self, action: ObjectAction) -> Callable[..., HttpResponse]:
        def view(request: HttpRequest, object_id: str) -> HttpResponse:
            obj = self.get_object(request, unquote(object_id))
            if obj is None:
                return self._get_obj_does_not_exist_redirect(  # type: ignore[attr-defined,no-any-return]
                    request, self.opts, object_id
                )
            if not (self.has_view_permission(request, obj) and self._may(request, action)):
                raise PermissionDenied
            rows = self.get_queryset(request).filter(pk=obj.pk)
            answer: HttpResponse | None = getattr(self, action.name)(request, rows)
            url = reverse(f"{self.admin_site.name}:{self._url_name('change')}", args=[obj.pk])
            return answer or HttpResponseRedirect(url)

        return view

    def _may(self, request: HttpRequest, action: ObjectAction) -> bool:
        return bool(getattr(self, f"has_{action.permission}_permission")(request))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs["obj"]
        links = list(self.get_object_links(obj))
        for action in self.object_actions:
            if action.applies(obj) and self._may(request, action):
                name = f"{self.admin_site.name}:{self._url_name(action.name)}"
                links.append((reverse(name, args=[obj.pk]), action.label))
        context["object_links"] = links
        return super().render_change_form(request, context, *args, **kwargs)

    def answer(self, request: HttpRequest) -> QueryDict | None:
        """What was filled in on the page that asks; None when it was not shown yet."""
        return request.POST if CONFIRMED in request.POST else None

    def ask(
        self,
        request: HttpRequest,
        action: str,
        rows: Sequence[Any],
        *,
        form: forms.Form,
        title: Any,
        text: Any,
        label: Any,
        describe: Callable[[Any], str],
        warning: Any = "",
    ) -> TemplateResponse:
        """The page between an action and its effect; it posts to where it was asked for."""
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "media": self.media + form.media,
            "form": form,
            "text": text,
            "warning": warning,
            "label": label,
            "action": action,
            "checkbox": ACTION_CHECKBOX_NAME,
            "confirmed": CONFIRMED,
            "ids": [row.pk for row in rows],
            "items": [describe(row) for row in rows[:ITEMS_SHOWN]],
            "more": max(0, len(rows) - ITEMS_SHOWN),
        }
        return TemplateResponse(request, "admin/graceful_ws/confirm.html", context)


def with_users(rows: QuerySet[Any], field: str = "user") -> QuerySet[Any]:
    """Reads the users of ``rows`` too. Not joined: they may be in another database."""
    model = get_user_model()
    users = model._default_manager.using(router.db_for_read(model))
    return rows.prefetch_related(Prefetch(field, users))


def name_of(user: Any) -> str:
    """How a user is listed; None is an anonymous one."""
    if user is None:
        return format_html('<span class="quiet">{}</span>', _("anonymous"))
    return str(user.get_username())


def badge(text: str, tone: str) -> str:
    """A word in a colour: ``tone`` is good, warn, bad or "" for none."""
    return format_html('<span class="gws-badge {}">{}</span>', f"gws-{tone}" if tone else "", text)


def age(moment: datetime, *, late_after: float | None = None) -> str:
    """How long ago, in one unit; marked when it is longer than ``late_after`` seconds."""
    seconds = max(0.0, (timezone.now() - moment).total_seconds())
    text = f"{seconds:.0f} s"
    for size, unit in ((60, "min"), (3600, "h"), (86400, "d")):
        if seconds >= size:
            text = f"{seconds // size:.0f} {unit}"
    late = late_after is not None and seconds > late_after
    return format_html(
        '<time datetime="{}" title="{}" class="{}">{}</time>',
        moment.isoformat(),
        timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z"),
        "gws-late" if late else "",
        text,
    )
