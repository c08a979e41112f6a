"""Faults, tried on purpose: ``python -m tests.faults --help``. The suite runs a short form of each."""
