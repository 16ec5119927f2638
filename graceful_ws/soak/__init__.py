"""Many clients, numbered messages, and what became of each: ``manage.py soak``.

ledger.py      pure: what one client sent and got, compared as it goes
histogram.py   pure: round trips, in a bounded number of counters
report.py      pure: all clients in one table, one line of JSON, one verdict
screen.py      the progress, in words and on a terminal
runner.py      the clients, and the clock

Imports no Django: it sees a site as its clients do.
"""
