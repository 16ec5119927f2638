"""The admin's view of streams: where they stand, who is in them now, what was said last."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce, Length, Substr
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from graceful_ws.admin_base import TONES, ReadOnlyAdmin, Section, age, badge, name_of, with_users
from graceful_ws.models import Presence, Session, Stream, StreamMessage, Subscription
from graceful_ws.store.base import alias
from graceful_ws.store.streams import hash_name

LISTED = 100  # of those who are online in one stream
MESSAGES = 20  # the last of one stream
SHOWN = 200  # characters of a message


@admin.register(Stream)
class StreamAdmin(ReadOnlyAdmin):
    """Streams, the last used first. What was said in one is for those who may view its messages."""

    ordering = ["-used_at"]
    list_display = ["name", "head", "last_used", "followers", "online"]
    search_fields = ["name"]
    fields = ["name", "epoch", "head", "last_used", "followers", "online"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        live = Subscription.objects.exclude(session__state=Session.State.ENDED)
        here = Presence.objects.filter(session__present=True)
        rows: QuerySet[Any] = super().get_queryset(request).defer("name_hash")
        rows = rows.annotate(followers=_count(live), online=_count(here))
        return rows

    def get_sections(self, request: HttpRequest, obj: Any) -> list[Section]:
        return [
            self._online(request, obj),
            *([self._messages(obj)] if may_view(request, StreamMessage) else []),
        ]

    def _online(self, request: HttpRequest, stream: Any) -> Section:
        rows = Session.objects.using(alias()).filter(
            pk__in=Presence.objects.filter(stream=stream.name).values("session"), present=True
        )
        shown = rows.only("uuid", "user", "started_at", "state", "connection_state")
        found = list(with_users(shown).order_by("started_at", "pk")[:LISTED])
        linked = may_view(request, Session)
        return Section(
            _("Online now"),
            [_("session"), _("user"), _("since"), _("state")],
            [
                [
                    _link(self.admin_site, session, session.uuid, linked),
                    name_of(session.user),
                    age(session.started_at),
                    state_of(session),
                ]
                for session in found
            ],
            empty=_("Nobody who follows it with presence."),
            more=max(0, stream.online - len(found)),
        )

    def _messages(self, stream: Any) -> Section:
        rows = StreamMessage.objects.using(alias()).filter(stream=stream.name, seq__isnull=False)
        last = rows.order_by("-seq").values_list(
            "seq", "created_at", Substr("data", 1, SHOWN), Length("data")
        )
        return Section(
            _("Last messages"),
            [_("number"), _("published"), _("data")],
            [
                [
                    format_html('<span class="gws-number">{}</span>', seq),
                    age(created_at),
                    format_html(
                        '<span class="gws-data">{}{}</span>', data, "…" if length > SHOWN else ""
                    ),
                ]
                for seq, created_at, data, length in last[:MESSAGES]
            ],
            empty=_("None is kept."),
        )

    # --- columns ------------------------------------------------------------------------------

    @admin.display(description=_("last used"), ordering="used_at")
    def last_used(self, stream: Stream) -> str:
        return age(stream.used_at)

    @admin.display(description=_("followers"))
    def followers(self, stream: Any) -> int:
        return int(stream.followers)

    @admin.display(description=_("online now"))
    def online(self, stream: Any) -> int:
        return int(stream.online)


def followed(request: HttpRequest, site: AdminSite, session: Session) -> Section:
    """The streams that a session follows, and those that are told when it comes and goes."""
    subscriptions = {
        one.stream: one for one in Subscription.objects.using(alias()).filter(session=session)
    }
    told = set(
        Presence.objects.using(alias()).filter(session=session).values_list("stream", flat=True)
    )
    names = sorted(subscriptions.keys() | told)
    rows = Stream.objects.using(alias()).filter(name_hash__in=[hash_name(name) for name in names])
    streams = {stream.name: stream for stream in rows}
    linked = may_view(request, Stream)
    return Section(
        _("Streams"),
        [_("stream"), _("acked / head"), _("presence")],
        [
            [
                _link(site, streams.get(name), name, linked),
                _position(subscriptions.get(name), streams.get(name)),
                _presence(session) if name in told else "",
            ]
            for name in names
        ],
        empty=_("It follows none."),
    )


def _position(subscription: Subscription | None, stream: Stream | None) -> str:
    if subscription is None:
        return format_html('<span class="quiet">{}</span>', _("does not follow it"))
    if stream is None or stream.epoch != subscription.epoch:
        text = gettext("of an earlier epoch")
    else:
        text = f"{max(subscription.from_seq, subscription.acked_seq)} / {stream.head}"
    return format_html('<span class="gws-number">{}</span>', text)


def _presence(session: Session) -> str:
    return badge(gettext("online"), "good") if session.present else badge(gettext("has left"), "")


def _link(site: AdminSite, row: Any, text: Any, linked: bool) -> str:
    if row is None or not linked:
        return format_html("{}", text)
    page = f"{site.name}:graceful_ws_{row._meta.model_name}_change"
    return format_html('<a href="{}">{}</a>', reverse(page, args=[row.pk]), text)


def state_of(session: Session) -> str:
    """A session's state, and that of its connection."""
    shown = badge(session.get_state_display(), TONES.get(session.state, ""))
    return format_html('{} <span class="quiet">{}</span>', shown, session.connection_state)


def may_view(request: HttpRequest, model: type[Any]) -> bool:
    return bool(request.user.has_perm(f"graceful_ws.view_{model._meta.model_name}"))


def _count(rows: QuerySet[Any]) -> Coalesce:
    """How many of ``rows`` belong to the stream, as a column."""
    of_stream = rows.filter(stream=OuterRef("name")).order_by().values("stream")
    found = of_stream.annotate(count=Count("pk")).values("count")
    return Coalesce(Subquery(found, output_field=IntegerField()), 0)
