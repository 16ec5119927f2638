"""What ``manage.py demo`` is made of.

    command ── supervisor ─┬─ node-1, node-2: Daphne with project.asgi
                           └─ clock: speaks to every session five times a second

The supervisor knows no database and no Django; what it starts does.
"""
