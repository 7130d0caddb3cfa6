"""Files read by the loaders of `skesm.datasets`."""
