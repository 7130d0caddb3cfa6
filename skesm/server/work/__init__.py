"""From sequences to records: how much is taken on, what is computed together, what is counted."""
