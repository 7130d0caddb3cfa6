"""A benchmark run as a folder: its configuration, data, manifest, report and replay."""
