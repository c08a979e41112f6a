"""Evaluation: the evaluations by name, the engine that runs them, and measurements of any network."""
