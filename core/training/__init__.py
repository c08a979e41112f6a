"""Weights from a configuration: the loop, its optimiser and its schedule."""
