"""Translated Fashion-MNIST: what a classifier loses when objects are not centred, and which networks get it back."""
