"""Where torch computes."""

from __future__ import annotations

from skesm._optional import import_optional
from skesm.exceptions import BackendError


def resolve_device(name: str) -> str:
    """Device that a name stands for.

    Parameters
    ----------
    name : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. ``"auto"`` is CUDA or MPS if there is one, else the CPU.

    Returns
    -------
    device : str

    Raises
    ------
    ValueError
        If the name is none of these.
    BackendError
        If this machine, or the installed torch, has no such device.
    MissingDependencyError
        If torch is not installed.

    Examples
    --------
    >>> resolve_device("cpu")
    'cpu'
    >>> resolve_device("gpu")
    Traceback (most recent call last):
        ...
    ValueError: unknown device 'gpu': use 'auto', 'cpu', 'cuda', 'cuda:0' (a number) or 'mps'
    """
    torch = import_optional("torch", extra="torch")
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    if name not in ("cpu", "cuda", "mps") and not (kind == "cuda" and number.isascii() and number.isdigit()):
        raise ValueError(f"unknown device {name!r}: use 'auto', 'cpu', 'cuda', 'cuda:0' (a number) or 'mps'")
    if kind == "cuda":
        if not torch.cuda.is_available():
            reason = "no GPU or driver is found" if torch.version.cuda else "it was installed without CUDA"
            raise BackendError(f"device={name!r}: torch {torch.__version__} cannot use CUDA: {reason}")
        if colon and int(number) >= torch.cuda.device_count():
            raise BackendError(f"device={name!r}: torch sees {torch.cuda.device_count()} CUDA devices, from 'cuda:0'")
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise BackendError(f"device='mps': torch {torch.__version__} finds no Apple GPU on this machine")
    return name
