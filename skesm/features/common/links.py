"""The link from an estimator in a notebook to its page of the documentation."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata

#: Address of another build of the documentation, such as one on this machine.
VARIABLE = "SKESM_DOCS"


class LinkedEstimator:
    """Tells scikit-learn's HTML diagram where the page of an estimator is. There is no link if no address is known."""

    _doc_link_module = "skesm"

    @property
    def _doc_link_template(self) -> str:
        base = os.environ.get(VARIABLE) or _published()
        return f"{base.rstrip('/')}/generated/skesm.{{estimator_name}}.html" if base else ""

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"estimator_name": type(self).__name__}


@cache
def _published() -> str:
    """The address that the package names as its documentation."""
    try:
        addresses = metadata("skesm").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    links: dict[str, str] = dict(address.split(", ", 1) for address in addresses)
    return links.get("Documentation", "")
