"""Dai et al., "Revisiting sparse convolutional model for visual recognition", NeurIPS 2022, and CIFAR-10-C."""
