"""Antialiasing other people's networks: finding their strides and inserting filters, with the weights unchanged."""
