"""The data sets, one in each module and called like it: every module here is in the catalogue."""
