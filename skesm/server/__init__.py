"""A server that answers BioLM's protocols with a model on this machine (extra ``server``).

`serve` is the function behind ``skesm serve``. `create_app` gives the application to other ASGI servers. See
docs/server.md. Inside: ``api`` reads requests and writes answers, ``work`` computes, ``describe`` publishes schemas,
``http`` joins them to connections.
"""

from skesm.server.command import add_serve_parser
from skesm.server.config import Limits, ServerConfig
from skesm.server.gatekeeper import Gatekeeper
from skesm.server.serve import create_app, serve

__all__ = ["Gatekeeper", "Limits", "ServerConfig", "add_serve_parser", "create_app", "serve"]
