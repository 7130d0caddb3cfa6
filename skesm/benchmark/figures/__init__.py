"""Figures of a comparison, each a matplotlib figure."""
