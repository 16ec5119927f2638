"""The demo's consumer."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from graceful_ws.consumers import GracefulConsumer
from project.models import Note


class Notes(GracefulConsumer):
    """Keeps and answers what the visitor writes.

    The note, its number, the answer and the result commit together: whatever dies, a note is kept
    once and answered once. The ticks come from another process, see ``project.demo.clock``.
    """

    def receive_in_transaction(self, content: Any) -> Any:
        number, text = int(content["note"]), str(content["text"])[:200]
        note = Note.objects.create(session=self.session_id, number=number, text=text)
        answers = Note.objects.filter(session=self.session_id).count()
        self.reply({"answer": answers, "note": number, "node": settings.GRACEFUL_WS["node_name"]})
        return {"note": note.pk}
