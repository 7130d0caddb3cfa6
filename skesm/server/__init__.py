"""A server that answers BioLM's protocols with the model of this machine (extra ``server``).

`serve` is what ``skesm serve`` calls; `create_app` is for other ASGI servers. docs/server.md tells the rest.
"""

from skesm.server._auth import Gatekeeper
from skesm.server._command import add_serve_parser
from skesm.server._config import ServerConfig
from skesm.server._requests import Limits
from skesm.server._serve import create_app, serve

__all__ = ["Gatekeeper", "Limits", "ServerConfig", "add_serve_parser", "create_app", "serve"]
