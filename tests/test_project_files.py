"""Files for those who build, cite and package skesm say what pyproject.toml says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import skesm

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

RECIPE = yaml.safe_load((ROOT / "recipe/recipe.yaml").read_text(encoding="utf-8"))


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_conda_recipe_has_the_same_dependencies() -> None:
    listed = {name.replace(" ", "").replace("_", "-") for name in RECIPE["requirements"]["run"]}
    wanted = {f"python{PROJECT['requires-python']}", *(name.replace(" ", "") for name in PROJECT["dependencies"])}
    assert listed == wanted


def test_the_recipe_starts_the_same_command() -> None:
    (name, target), *others = PROJECT["scripts"].items()
    assert not others
    assert RECIPE["build"]["python"]["entry_points"] == [f"{name} = {target}"]


def test_recipe_and_citation_name_this_version() -> None:
    assert RECIPE["context"]["version"] == skesm.__version__
    assert f"\nversion: {skesm.__version__}\n" in read("CITATION.cff")


def test_workflows_test_every_declared_python() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    versions = re.search(r"python: \[(.+)\]", read(".github/workflows/tests.yml"))
    assert versions is not None
    assert versions[1].split(", ")[0].strip('"') == oldest
    assert oldest in read(".github/workflows/tests.yml").split("oldest:")[1]


def test_there_is_no_badge_before_there_is_something_to_show() -> None:
    """A badge of a package or a site that is not published yet would show another project's, or nothing."""
    assert not re.search(r"shields\.io|badge\.svg|badge/", read("README.md"))
