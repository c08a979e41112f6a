"""The data sets, one module each, called as the data set is: whatever lies here is in the catalogue."""
