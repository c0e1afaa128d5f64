"""Notes of the library in a worker: they reach the user as events of its stage."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

from factory.core.context import Context


class _Handler(logging.Handler):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def emit(self, record: logging.LogRecord) -> None:
        self._context.note(record.getMessage())


@contextmanager
def passing_notes(context: Context) -> Generator[None]:
    """Meanwhile what `files.note` is given goes to the context's events."""
    logger, handler = logging.getLogger("factory"), _Handler(context)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
