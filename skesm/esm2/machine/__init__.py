"""The machine that the engines run on: devices, instruction sets, threads, and how a pass is stopped."""
