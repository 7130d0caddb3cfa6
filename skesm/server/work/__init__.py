"""From sequences to records: limits on open requests, shared batches, and counts."""
