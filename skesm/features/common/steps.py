"""Tell the callbacks of scikit-learn 1.9 and later how far ``fit_transform`` is: a step for each batch of sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from skesm._progress import listening
from skesm._typing import Column, Estimator

F = TypeVar("F")

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # older versions have no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method: F) -> F:
        """Nothing to begin and to end."""
        return method


__all__ = ["CallbackSupportMixin", "told_steps", "with_callbacks"]


@contextmanager
def told_steps(estimator: Estimator, X: Column, y: object) -> Iterator[None]:
    """Tell callbacks that were set, on the estimator or on its Pipeline or search, of each batch that is finished."""
    if not getattr(estimator, "_skl_callbacks", None):
        yield
        return
    whole = estimator._init_callback_context(task_name="fit-transform", max_subtasks=None)
    whole.call_on_fit_task_begin(estimator=estimator, X=X, y=y)

    def tell(_: int) -> None:
        step = whole.subcontext(task_name="batch")
        step.call_on_fit_task_begin(estimator=estimator)
        step.call_on_fit_task_end(estimator=estimator)

    with listening(tell):
        yield
    whole.call_on_fit_task_end(estimator=estimator, X=X, y=y)
