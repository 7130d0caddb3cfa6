"""Outputs of the model: their names and shapes, and how one follows from another."""
