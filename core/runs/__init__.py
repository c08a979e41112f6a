"""The files of a run: layout, records, checkpoints, cards, provenance."""
