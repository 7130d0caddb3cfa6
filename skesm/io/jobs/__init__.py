"""Files of sequences to files of features: survey, compute in parts, resume, write."""
