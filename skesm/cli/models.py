"""``skesm models``: checkpoints."""

from __future__ import annotations

import argparse
from importlib import resources
from typing import Any

from skesm.cli.arguments import size

_BYTES_PUBLISHED = 4  # a weight: the published checkpoints are float32


def add_models(commands: Any) -> None:
    """Add the command ``models``."""
    parser = commands.add_parser("models", help="list the checkpoints known by name")
    parser.set_defaults(run=_models)


def _models(args: argparse.Namespace) -> None:
    from skesm.esm2.spec import REGISTRY

    print(f"{'name':<20}{'layers':>8}{'width':>7}{'parameters':>12}{'on disk':>9}  weights")
    for spec in sorted(REGISTRY.values(), key=lambda spec: spec.n_parameters):
        if spec.repository is None:
            file = resources.files("skesm.esm2") / "weights" / spec.name / "model.safetensors"
            with resources.as_file(file) as path:
                n_bytes = path.stat().st_size
            source = "bundled, for trying and teaching"
        else:
            n_bytes = spec.n_parameters * _BYTES_PUBLISHED
            source = f"Hub: {spec.repository}"
        parameters = f"{spec.n_parameters / 1e6:,.1f} M"
        print(f"{spec.name:<20}{spec.n_layers:>8}{spec.width:>7}{parameters:>12}{size(n_bytes):>9}  {source}")
