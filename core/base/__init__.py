"""What all other rooms build on: errors, atomic files, randomness, interrupts, devices, processes.

Imports no other room. A change here can change every result: keep it small.
"""
