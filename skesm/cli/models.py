"""``skesm models``: checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from skesm.cli.arguments import size

if TYPE_CHECKING:
    from skesm.cli.arguments import Commands

_BYTES_PUBLISHED = 4  # a weight: the published checkpoints are float32
_MODEL = "a name that `skesm models` lists, a folder, or a Hub repository ('organisation/name', with @revision)"
_COMPARED = {"hub": "as the Hub sent it", "record": "as it was recorded", "none": "no digest to compare with"}


def add_models(commands: Commands) -> None:
    """Add the command ``models``."""
    parser = commands.add_parser(
        "models",
        help="list, fetch, convert and verify checkpoints",
        description="Look after checkpoints. Without an action: list those known by name.",
        epilog="example: skesm models download esm2-8m",
    )
    parser.set_defaults(run=_list)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str, example: str) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: skesm models {example}"
        )
        action.set_defaults(run=run)
        return action

    def add_named(name: str, run: Callable[[argparse.Namespace], None], text: str) -> None:
        add(name, run, text, f"{name} esm2-8m").add_argument("model", metavar="NAME", help=_MODEL)

    add("list", _list, "list the checkpoints known by name", "list")
    add_named("download", _download, "fetch a checkpoint from the Hub, and print its folder")
    add_named("verify", _verify, "compare a checkpoint's files with their digests, and run one peptide")
    add_named("where", _where, "print the folder of a checkpoint on this machine. Nothing is fetched")
    text = "convert a .bin, .pt, .pth or .ckpt checkpoint to a folder with safetensors (needs torch 2.6 or later)"
    convert = add("convert", _convert, text, "convert my_model/pytorch_model.bin my_model_safe")
    convert.add_argument("source", type=Path, metavar="SOURCE", help="the file, or a folder that holds it")
    convert.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to make. Give it as the model")


def _list(args: argparse.Namespace) -> None:
    from skesm.esm2.spec import REGISTRY

    print(f"{'name':<20}{'layers':>8}{'width':>7}{'parameters':>12}{'on disk':>9}  weights")
    for spec in sorted(REGISTRY.values(), key=lambda spec: spec.n_parameters):
        if spec.repository is None:
            file = resources.files("skesm.esm2") / "weights" / spec.name / "model.safetensors"
            with resources.as_file(file) as path:
                n_bytes = path.stat().st_size
            source = "bundled, for trials and teaching"
        else:
            n_bytes = spec.n_parameters * _BYTES_PUBLISHED
            source = f"Hub: {spec.repository}"
        parameters = f"{spec.n_parameters / 1e6:,.1f} M"
        print(f"{spec.name:<20}{spec.n_layers:>8}{spec.width:>7}{parameters:>12}{size(n_bytes):>9}  {source}")


def _download(args: argparse.Namespace) -> None:
    from skesm.models import download

    print(download(args.model))


def _where(args: argparse.Namespace) -> None:
    from skesm.models import where

    print(where(args.model))


def _verify(args: argparse.Namespace) -> None:
    from skesm.models import verify

    found = verify(args.model)
    for name, compared in found.files.items():
        print(f"{name}: {_COMPARED[compared]}")
    print(f"one peptide went through the model in {found.folder}")


def _convert(args: argparse.Namespace) -> None:
    from skesm.models import convert

    done = convert(args.source, args.folder)
    print(f"read {args.source}, which uses the names of {done.naming}")
    if done.prefixes:
        print(f"took off the prefixes {', '.join(done.prefixes)}")
    for there, head in ((done.has_head, "language-model head: no logits"), (done.has_contact_head, "contact head")):
        if not there:
            print(f"the source has no {head}")
    print(f"wrote {', '.join(path.name for path in done.files)} to {done.folder}")
