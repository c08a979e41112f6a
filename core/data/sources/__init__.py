"""The data sets, one module of the same name each: every module here is in the catalogue."""
