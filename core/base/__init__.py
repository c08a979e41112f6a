"""Errors, atomic files, randomness, interrupts, devices and processes, on which all other subpackages build.

Imports no other subpackage. A change here can change every result: keep it small.
"""
