"""Adaptive polyphase sampling.

Chaman and Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021.
"""
