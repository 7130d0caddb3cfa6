"""The estimators: records to rows of features."""
