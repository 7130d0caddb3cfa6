"""The descriptions that the server publishes: JSON Schema, OpenAPI and a page for people."""
