"""Log records as lines of JSON, without sequences or credentials."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime

from skesm._typing import JsonObject

#: Attribute of a log record that holds further fields of its line.
FIELDS = "skesm_fields"


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, and the fields that were given.

    Of an exception, a line holds the type and the place in the code. The message is left out: it may quote a sequence.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        line: JsonObject = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def _message(record: logging.LogRecord) -> str:
    # Further lines of asyncio show the failed objects, with the messages of their exceptions.
    text = record.getMessage()
    return text.partition("\n")[0] if record.name == "asyncio" else text


class NoFlood(logging.Filter):
    """Lets the same message through once a second. asyncio repeats it for each connection that it cannot take."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the last such message is more than a second old."""
        last = self._last.get(str(record.msg))
        if last is not None and 0 <= record.created - last < 1:
            return False
        self._last = {text: when for text, when in self._last.items() if record.created - when < 1}
        self._last[str(record.msg)] = record.created
        return True


def describe(error: BaseException) -> JsonObject:
    """Type of an exception, types of its causes, and places in the code."""
    chain, causes = error, list[str]()
    while (cause := chain.__cause__ or chain.__context__) is not None and len(causes) < 5:
        causes.append(type(cause).__name__)
        chain = cause
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return {"type": type(error).__name__, "causes": causes, "frames": frames}


def configure_logging(level: str) -> None:
    """Write the logs of skesm, uvicorn and asyncio, and Python's warnings, to stderr as lines of JSON.

    Parameters
    ----------
    level : {"debug", "info", "warning", "error"}
        Lowest level that is written.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.captureWarnings(True)
    for name in ("skesm", "uvicorn", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.getLogger("asyncio").addFilter(NoFlood())
