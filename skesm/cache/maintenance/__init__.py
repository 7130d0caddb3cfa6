"""Inspect, check, clean up, merge and export stores."""
