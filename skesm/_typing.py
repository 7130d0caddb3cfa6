"""Names of types that users, or libraries without types, decide."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

#: X: a list, tuple, array, Series, or one-column table of str. Its libraries share no type, so `column_of` checks it.
Column: TypeAlias = object

#: The parameter `model`: a name, or the path of a folder.
ModelName: TypeAlias = str | os.PathLike[str]

#: The parameter `memory`: None, a path, or a joblib.Memory. joblib has no types, so `resolve_location` checks it.
Memory: TypeAlias = object

#: Allowed values of each parameter. The rules are scikit-learn's own objects, and types such as `str`.
Constraints: TypeAlias = dict[str, list[object]]

#: A JSON object that skesm wrote, or that it has checked: its parts are read without checks.
Document: TypeAlias = dict[str, Any]

#: An estimator or a pipeline. scikit-learn has no types, so its methods are looked up when it is used.
Estimator: TypeAlias = Any

#: The result of a loader: a Bunch, or X and y. scikit-learn's Bunch has no types.
Dataset: TypeAlias = Any

#: Keyword arguments of one call. Each has a type of its own.
Options: TypeAlias = dict[str, Any]

#: A JSON object whose values are not checked yet.
JsonObject: TypeAlias = dict[str, object]
