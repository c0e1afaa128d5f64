"""What the library notes for its user, on standard error: nothing that stops a command."""

import logging


class Notes(logging.Handler):
    """Prints each note as a line of its own, once a command."""

    def __init__(self) -> None:
        super().__init__()
        self.printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from factory.ui.console import Console

        text = f"note: {record.getMessage()}"
        if text not in self.printed:
            self.printed.add(text)
            Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def print_notes() -> None:
    """Print from now on what `factory.core.files.note` is given; a command begins."""
    logger = logging.getLogger("factory")
    handlers = [handler for handler in logger.handlers if isinstance(handler, Notes)]
    for handler in handlers:
        handler.printed.clear()
    if not handlers:
        logger.addHandler(Notes())
