"""Backbones: each is the plain network of its name with a slot in place of every stride."""
