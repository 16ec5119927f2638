"""``python -m project.demo.prepare``: the tables, and an admin with the password from stdin, or no
admin without one."""

from __future__ import annotations

import sys

import django
from django.core.management import call_command
from django.db import connection


def main() -> None:
    django.setup()
    from django.contrib.auth import get_user_model

    from project.models import Visitor

    call_command("migrate", verbosity=0, interactive=False)
    Visitor.objects.all().delete()  # what pages counted before is not of this run
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")
    password = sys.stdin.readline().strip()
    if not password:
        return
    admin, _ = get_user_model().objects.get_or_create(
        username="admin", defaults={"is_staff": True, "is_superuser": True}
    )
    admin.set_password(password)
    admin.save()


if __name__ == "__main__":
    main()
