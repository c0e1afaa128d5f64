"""The one door to a terminal: whatever is printed, a terminal obeys nothing in it.

Text of models, servers, data files, manifests and programs is shown with its control, reordering
and invisible characters written out, and square brackets in it are never markup. Every other module
imports `Console` and `Text` from here, never rich's own.
"""

import codecs
from collections.abc import Iterable
from typing import Any, TextIO

import rich.console
import rich.text
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style

from factory.text.visible import visible


class Text(rich.text.Text):
    """Rich's text, with everything written out that a terminal would obey."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(visible(text), style, **options)


class _Line:
    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> Any:
        yield Segment(self._text)
        yield Segment.line()


class Console(rich.console.Console):
    """Rich's console without markup in strings, and with every segment that it renders visible."""

    def __init__(
        self, *, file: TextIO | None = None, stderr: bool = False, width: int | None = None
    ) -> None:
        super().__init__(file=file, stderr=stderr, width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Strings in print, tables and rules, before they are laid out."""
        plain: dict[str, Any] = {**options, "markup": False, "emoji": False}
        return super().render_str(visible(text), **plain)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Whatever is printed, at its last stop before colours are put around it."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else self._encodable(visible(segment.text))
            yield segment if text == segment.text else Segment(text, segment.style)

    def row(self, text: str) -> None:
        """One line as it is: tabs stay tabs, which `print` would fill up with spaces."""
        self.print(_Line(text), soft_wrap=True)

    def _encodable(self, text: str) -> str:
        if text.isascii() or codecs.lookup(self.encoding).name == "utf-8":
            return text
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)
