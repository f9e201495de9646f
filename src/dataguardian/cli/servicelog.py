"""What the service writes about itself: one line per event on standard error, JSON for machines or text for people.

Lines of the standard library's loggers (uvicorn, alembic and the like) take the same way. A traceback never shows the
values of variables, because some of them are secrets.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Literal, TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.types import EventDict, ExcInfo, Processor

from dataguardian.cli.output import visible
from dataguardian.domain.errors import UsageError
from dataguardian.settings import Settings

Format = Literal["json", "console"]

LEVELS = ("debug", "info", "warning", "error", "critical")
QUIET = (
    "aiosqlite",
    "alembic.runtime.plugins",
    "apprise",
    "asyncio",
    "httpcore",
    "httpx",
    "sqlalchemy",
    "urllib3",
    "uvicorn",
)
"""What they say below a warning is of no use, or names addresses that hold secrets."""
TRACEBACK_FRAMES = 30
FIRST = ("timestamp", "level", "event", "logger")


def configure_log(settings: Settings) -> None:
    """Sends every log line of this process to standard error; raises UsageError that names a variable.

    `log_format` of `auto` is text on a terminal and JSON anywhere else.
    """
    if settings.log_level not in LEVELS:
        raise UsageError(f"DATAGUARDIAN_LOG_LEVEL is {settings.log_level!r}", hint=f"one of {', '.join(LEVELS)}")
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_ends(_format(settings))],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)


def _format(settings: Settings) -> Format:
    if settings.log_format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    if settings.log_format not in ("json", "console"):
        raise UsageError(f"DATAGUARDIAN_LOG_FORMAT is {settings.log_format!r}", hint="one of auto, json, console")
    return cast("Format", settings.log_format)


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]


def _in_order(_: object, __: str, event: EventDict) -> EventDict:
    """Puts what every line has first, so that lines can be read one below the other."""
    return {name: event.pop(name) for name in FIRST if name in event} | dict(event)


def _harmless(_: object, __: str, event: EventDict) -> EventDict:
    """Keeps a line one line, and a terminal as it is, whatever a name or an address holds. JSON does so by itself."""
    return {
        name: visible(value).replace("\n", "\\n") if isinstance(value, str) else value for name, value in event.items()
    }


def _plain_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(visible(text.getvalue()))


def _ends(log_format: Format) -> list[Processor]:
    if log_format == "console":
        return [
            _harmless,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback),
        ]
    without_values = ExceptionDictTransformer(show_locals=False, max_frames=TRACEBACK_FRAMES)
    return [
        structlog.processors.ExceptionRenderer(without_values),
        _in_order,
        structlog.processors.JSONRenderer(default=str),
    ]
