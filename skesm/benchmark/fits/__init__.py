"""The fits of a comparison: features computed once, folds, pairs, and their digests."""
