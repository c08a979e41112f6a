"""Other networks than ours: to find where they stride and put filters there, with their weights kept."""
