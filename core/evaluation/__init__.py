"""Evaluation: the evaluations by name, the engine that runs them, and measuring other people's networks."""
