"""Numbers from weights: the evaluations, the engine that runs them, and measures of other networks."""
