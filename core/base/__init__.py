"""Errors, atomic files, randomness, interrupts, devices and processes, on which all other rooms build.

Imports no other room. A change here can change every result: keep it small.
"""
