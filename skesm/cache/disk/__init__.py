"""Files, locks and the database of a record store."""
