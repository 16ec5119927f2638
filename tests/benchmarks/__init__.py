"""Measurements beside bare Channels, run by hand: ``python -m tests.benchmarks --help``.

Nothing here is a timed test. docs/performance.md says how the figures are to be read.
"""
