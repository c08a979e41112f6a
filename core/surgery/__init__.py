"""Antialiases other people's networks: finds their strides and inserts filters, with the weights unchanged."""
