"""Configuration: the schema of settings, how they are merged, and the catalogue of data sets.

No torch here: the command line and the workflow read configurations before anything heavy is imported.
"""
