"""Learnable polyphase sampling (Rojas-Gomez et al., NeurIPS 2022)."""
