"""Which settings there are: the schema, how layers of settings are merged, and the catalogue of data sets.

No torch here: the command line and the workflow read configurations before anything heavy is imported.
"""
