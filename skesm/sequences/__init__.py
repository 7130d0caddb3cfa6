"""Sequences as text: letters, clean input, and a sequence beside its reference."""
