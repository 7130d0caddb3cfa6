"""Arguments of ``skesm serve``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from skesm.backends.local import ENGINES, NUMERICS, LocalBackend
from skesm.esm2.spec import DEMO_MODEL
from skesm.protocol.wire import MAX_ITEMS, MAX_LENGTH
from skesm.server.config import MAX_MODELS, Limits, ServerConfig
from skesm.server.gatekeeper import KEY_VARIABLE, TOKENS_VARIABLE, USERS_VARIABLE, Gatekeeper
from skesm.server.logs import configure_logging
from skesm.server.serve import serve


def add_serve_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], announce: Callable[[str], object]
) -> None:
    """Add the command ``serve`` to the subparsers of a command line.

    Parameters
    ----------
    commands : object
        The result of ``ArgumentParser.add_subparsers``.
    announce : callable
        Gets the address of the server when it listens.
    """
    parser = commands.add_parser(
        "serve",
        help="answer BioLM's protocols with a model on this machine",
        description="Serve ESM-2 in BioLM's protocols (v1, v2, v3 and biolm-hub). Credentials are read from the "
        f"environment: {TOKENS_VARIABLE} holds tokens, {USERS_VARIABLE} user:password pairs, separated by white space. "
        f"{KEY_VARIABLE} signs logins, so that they survive a restart.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="MODEL",
        help="registry name, Hub repository id or folder, or NAME=FOLDER to serve a folder under a name. May be "
        f"given up to {MAX_MODELS} times (default: {DEMO_MODEL})",
        default=argparse.SUPPRESS,
    )
    parser.add_argument("--host", default="127.0.0.1", help="name or address to listen at")
    parser.add_argument("--port", type=_from(0), default=8000, help="0 takes a free one")
    parser.add_argument("--allow-anonymous", action="store_true", help="listen to other machines without credentials")
    parser.add_argument(
        "--allowed-host",
        action="append",
        dest="allowed_hosts",
        metavar="NAME",
        help="name of this server that requests may have in their header Host. May be repeated. '*' allows every name. "
        "Addresses are always allowed (default: the names of this machine)",
        default=argparse.SUPPRESS,
    )
    compute = parser.add_argument_group("computing")
    compute.add_argument("--engine", choices=ENGINES, default="auto", help="runs the model")
    compute.add_argument("--device", default="auto", help="for torch, for example cuda:1")
    compute.add_argument("--dtype", choices=tuple(NUMERICS), default="float32", help="of matrix products")
    compute.add_argument("--threads", type=_from(1), metavar="N", help="CPU threads. None takes all cores.")
    compute.add_argument(
        "--tokens-per-batch",
        type=_from(1),
        default=8192,
        metavar="N",
        help="most tokens in a batch of several sequences",
    )
    compute.add_argument(
        "--batch-wait", type=_milliseconds, default=5.0, metavar="MS", help="wait of a sequence for others"
    )
    compute.add_argument(
        "--memory", type=Path, metavar="FOLDER", help="record store, so that each sequence is computed only once"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-items", type=_from(1), default=MAX_ITEMS, metavar="N", help="sequences in a request")
    limits.add_argument("--max-length", type=_from(1), default=MAX_LENGTH, metavar="N", help="residues in a sequence")
    limits.add_argument(
        "--queue",
        type=_from(1),
        default=ServerConfig.queue_residues,
        metavar="N",
        help="residues in open requests",
    )
    limits.add_argument("--grace", type=_from(1), default=300, metavar="S", help="seconds to finish after SIGTERM")
    limits.add_argument(
        "--head-timeout", type=_from(1), default=10, metavar="S", help="seconds for the head of a request to arrive"
    )
    limits.add_argument(
        "--write-timeout",
        type=_from(1),
        default=60,
        metavar="S",
        help="seconds in which a client must read a part of its answer",
    )
    limits.add_argument(
        "--max-connections", type=_from(1), metavar="N", help="connections at a time. None goes by open files."
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="to stderr")
    parser.set_defaults(run=partial(_serve, announce))


def _serve(announce: Callable[[str], object], args: argparse.Namespace) -> None:
    configure_logging(args.log_level)
    config = ServerConfig(
        models=tuple(getattr(args, "models", (DEMO_MODEL,))),
        backend=LocalBackend(args.engine, args.device, args.dtype, args.tokens_per_batch, args.threads),
        memory=args.memory,
        limits=Limits(args.max_items, args.max_length),
        queue_residues=args.queue,
        batch_wait=args.batch_wait / 1000,
        gatekeeper=Gatekeeper.from_environment(),
        allowed_hosts=tuple(args.allowed_hosts) if "allowed_hosts" in args else None,
    )
    serve(
        config,
        host=args.host,
        port=args.port,
        allow_anonymous=args.allow_anonymous,
        grace=args.grace,
        head_timeout=args.head_timeout,
        write_timeout=args.write_timeout,
        max_connections=args.max_connections,
        announce=announce,
    )


def _from(lowest: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        number = int(text)
        if number < lowest:
            raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} up, not {text!r}")
        return number

    return whole_number


def _milliseconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1000, not {text!r}")
    return number
