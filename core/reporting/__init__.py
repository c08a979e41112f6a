"""Reporting: tables, figures, progress."""
