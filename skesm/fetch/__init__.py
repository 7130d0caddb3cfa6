"""Sequences and outputs to records: the store first, then the model."""
