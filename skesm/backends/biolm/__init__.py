"""ESM-2 behind BioLM's REST API, or behind a server of your own that speaks it."""

from skesm.backends.biolm.backend import BioLMBackend

__all__ = ["BioLMBackend"]
