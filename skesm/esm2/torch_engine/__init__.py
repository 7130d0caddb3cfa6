"""ESM-2 in torch, which is imported with this package: ask `skesm.esm2.machine.device` first whether it is there."""

from skesm.esm2.torch_engine.engine import TorchEngine

__all__ = ["TorchEngine"]
