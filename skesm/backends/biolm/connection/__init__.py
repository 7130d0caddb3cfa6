"""One HTTP connection to a service: sockets, bodies, failures."""
