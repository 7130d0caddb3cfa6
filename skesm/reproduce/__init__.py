"""Published figures beside ours: fetch the data, run the model, compare, write it down."""

from skesm.reproduce._published import PUBLISHED, Published
from skesm.reproduce._result import Reproduction
from skesm.reproduce._run import reproduce

__all__ = ["PUBLISHED", "Published", "Reproduction", "reproduce"]
