"""placeholder"""
def knows(case): return not case["state_shapes"]
def run(case): raise KeyError(case["model"])
def tolerance(case, name): return None
