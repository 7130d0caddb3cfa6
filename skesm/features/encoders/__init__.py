"""Encoders of sequences that need no language model."""
