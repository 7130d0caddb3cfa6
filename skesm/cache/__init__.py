"""The record store: it keeps outputs of the model on disk, so that no sequence goes through the model twice.

`RecordStore` keeps records. `resolve_location` finds its folder for a value of the parameter ``memory``.
`remember_model` and `recall_model` find records without weights. `info`, `verify`, `prune`, `merge` and `export` are
for people. docs/cache.md explains the store.
"""

from skesm.cache._home import note_memory, warn_if_elsewhere
from skesm.cache._models import KnownModel, recall_model, remember_model
from skesm.cache._records import sequence_digest
from skesm.cache._store import RecordStore, keep_open, open_store
from skesm.cache.disk.files import find_location, resolve_location
from skesm.cache.maintenance.contents import NamespaceInfo, VerifyReport, info, verify
from skesm.cache.maintenance.export import export
from skesm.cache.maintenance.merge import MergeReport, merge
from skesm.cache.maintenance.prune import PruneReport, prune

__all__ = [
    "KnownModel",
    "MergeReport",
    "NamespaceInfo",
    "PruneReport",
    "RecordStore",
    "VerifyReport",
    "export",
    "find_location",
    "info",
    "keep_open",
    "merge",
    "note_memory",
    "open_store",
    "prune",
    "recall_model",
    "remember_model",
    "resolve_location",
    "sequence_digest",
    "verify",
    "warn_if_elsewhere",
]
