"""Read a checkpoint: its configuration, its files, and the names of its tensors."""
