"""In a notebook, the diagram of an estimator links to its page."""

from __future__ import annotations

import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

import skesm
from skesm.features.common import links

ESTIMATORS = [name for name in skesm.__all__ if name.startswith("ESM2")]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_diagram_links_to_the_page_also_inside_a_pipeline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(links.VARIABLE, "https://docs.example.org/skesm/")
    page = f'href="https://docs.example.org/skesm/generated/skesm.{name}.html"'
    estimator = getattr(skesm, name)("skesm-mini")
    assert page in estimator._repr_html_()
    if hasattr(estimator, "transform"):
        assert page in make_pipeline(estimator, Ridge())._repr_html_()


def test_no_link_where_no_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(links.VARIABLE, raising=False)
    monkeypatch.setattr(links, "_published", lambda: "")
    assert "/generated/" not in skesm.ESM2Embedder()._repr_html_()


def test_the_class_of_a_user_has_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(skesm.ESM2Embedder):
        """A subclass."""

    monkeypatch.setenv(links.VARIABLE, "https://docs.example.org")
    Own.__init__ = skesm.ESM2Embedder.__init__  # type: ignore[method-assign]
    assert Own()._get_doc_link() == ""
