"""Connections, paths, checks and answers."""
