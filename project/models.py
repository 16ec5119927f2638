from __future__ import annotations

from django.db import models


class Clock(models.Model):
    """How many times the server has spoken to a session."""

    session = models.UUIDField(primary_key=True)
    ticks = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.session}: {self.ticks}"


class Note(models.Model):
    """What a visitor wrote. ``number`` is the visitor's own count; nothing in the table keeps it
    unique, so a note that was handled twice would show."""

    session = models.UUIDField(db_index=True)
    number = models.PositiveBigIntegerField()
    text = models.CharField(max_length=200)
    written_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.number} {self.text}"
