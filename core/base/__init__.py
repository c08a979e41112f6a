"""What everything stands on: errors, atomic files, randomness, interrupts, devices, processes.

Imports nothing of the house. A change here can change every result: keep it small.
"""
