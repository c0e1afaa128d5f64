"""What a report shows, as data: sections of blocks. The renderers know these alone.

Every text is plain text, whoever wrote it: `report/html.py` and `report/markdown.py` escape it.
"""

import math
from typing import Annotated, Any, Literal

from markupsafe import Markup
from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic.dataclasses import dataclass, rebuild_dataclass

from factory.core.readable import clip, figure
from factory.core.records import Outcome, Trace

LONGEST_SAMPLE = 4000
"""Characters shown of one text of a model."""
OUTCOME_WORDS: dict[Outcome, str] = {
    "correct": "correct",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "cut off",
    "timeout": "too slow",
    "crashed": "crashed",
    "ungradable": "not gradable",
}
CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, config=CONFIG)
class Bar:
    """Amounts as one horizontal bar."""

    parts: tuple[tuple[str, float], ...]
    """(class, amount): the class is one that the style sheet colours."""
    title: str
    full: float | None = None
    """Amount at which the bar is full; None: that of its parts together."""


@dataclass(frozen=True, config=CONFIG)
class Cell:
    """A cell of a table."""

    text: str = ""
    note: str = ""
    """Dimmed, below the text."""
    look: str = ""
    """A class of the style sheet."""
    bar: Bar | None = None
    span: int = 1
    """Columns that it takes."""


AnyCell = Cell | str | int | float | None
"""A number is written with at most four digits."""


def cell_of(value: AnyCell) -> Cell:
    if isinstance(value, int | float):
        return Cell(figure(value if math.isfinite(value) else None))
    return value if isinstance(value, Cell) else Cell(value or "")


@dataclass(frozen=True, config=CONFIG)
class Text:
    """A paragraph."""

    text: str
    look: Literal["", "dim", "strong", "headline", "better", "worse"] = ""
    block: Literal["text"] = "text"


@dataclass(frozen=True, config=CONFIG)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]
    look: Literal["", "remarks"] = ""
    block: Literal["bullets"] = "bullets"


@dataclass(frozen=True, config=CONFIG)
class Code:
    """Text as it is, line by line."""

    text: str
    look: Literal["", "quote", "recipe"] = ""
    language: Literal["text", "mermaid"] = "text"
    block: Literal["code"] = "code"


@dataclass(frozen=True, config=CONFIG)
class Table:
    """Rows of texts and numbers."""

    header: tuple[str, ...]
    """A column without a name is for the page alone."""
    rows: tuple[tuple[AnyCell, ...], ...]
    numbers: tuple[int, ...] | None = None
    """Columns that stand to the right; None: those in which every value is a number."""
    label: str = ""
    """For screen readers; none: the title of the first column."""
    foot: tuple[AnyCell, ...] = ()
    look: Literal["", "outcomes"] = ""
    block: Literal["table"] = "table"

    def __post_init__(self) -> None:
        for row in (*self.rows, *((self.foot,) if self.foot else ())):
            width = sum(cell_of(cell).span for cell in row)
            if width != len(self.header):
                raise ValueError(f"a row of {width} cells under {len(self.header)} columns")

    @property
    def right(self) -> set[int]:
        """Columns that stand to the right."""
        if self.numbers is not None:
            return set(self.numbers)
        columns = enumerate(zip(*self.rows, strict=False))
        return {
            number
            for number, cells in columns
            if any(isinstance(cell, int | float) for cell in cells)
            and all(cell is None or isinstance(cell, int | float) for cell in cells)
        }


def _picture(value: Any, info: ValidationInfo) -> Any:
    # What another process drew comes as JSON; here, a bare string would be taken for markup.
    if info.mode == "json" and isinstance(value, str):
        return Markup(value)
    if not isinstance(value, Markup):
        raise ValueError("a picture is made by the functions for charts")
    return value


@dataclass(frozen=True, config=CONFIG)
class Figure:
    """A chart under its title."""

    title: str
    picture: Annotated[Any, BeforeValidator(_picture)]
    keys: tuple[tuple[str, str, str], ...] = ()
    """(class, name, last value) of each line."""
    note: str = ""
    block: Literal["figure"] = "figure"


@dataclass(frozen=True, config=CONFIG)
class Legend:
    """What the marks of figures mean: (class, words); for the page alone."""

    items: tuple[tuple[str, str], ...]
    block: Literal["legend"] = "legend"


@dataclass(frozen=True, config=CONFIG)
class Sample:
    """One completion. All its text is a model's."""

    label: str
    prompt: str
    reasoning: str | None
    answer: str | None
    completion: str
    outcome: Outcome
    explanation: str
    tokens: int
    cut: int
    """Characters of the completion that are left out."""

    @classmethod
    def of(cls, label: str, trace: Trace) -> "Sample":
        """A trace, each text cut at LONGEST_SAMPLE characters."""

        def short(text: str | None) -> str | None:
            return None if text is None else clip(text, LONGEST_SAMPLE)[0]

        completion, cut = clip(trace.completion, LONGEST_SAMPLE)
        return cls(
            label=label, prompt=short(trace.prompt) or "", reasoning=short(trace.reasoning),
            answer=short(trace.answer), completion=completion, outcome=trace.verdict.outcome,
            explanation=short(trace.verdict.explanation) or "", tokens=trace.completion_tokens,
            cut=cut,
        )  # fmt: skip


@dataclass(frozen=True, config=CONFIG)
class Samples:
    """Completions side by side."""

    samples: tuple[Sample, ...]
    block: Literal["samples"] = "samples"


@dataclass(frozen=True, config=CONFIG)
class Answers:
    """Answers that a reader leafs through on the page, packed as `browser.js` unpacks them."""

    index: str
    texts: tuple[str, ...]
    block: Literal["answers"] = "answers"


@dataclass(frozen=True, config=CONFIG)
class Figures:
    """Charts side by side."""

    figures: tuple[Figure, ...]
    size: Literal["small", "wide", "full", "picture"] = "small"
    instead: "tuple[Block, ...]" = ()
    """What is shown where there are no pictures."""
    block: Literal["figures"] = "figures"


@dataclass(frozen=True, config=CONFIG)
class Fold:
    """Blocks that the page shows when they are asked for."""

    title: str
    blocks: "tuple[Block, ...]"
    is_open: bool = False
    on_page_only: bool = False
    block: Literal["fold"] = "fold"


@dataclass(frozen=True, config=CONFIG)
class Section:
    """A title and blocks; sections inside sections are its parts."""

    title: str
    blocks: "tuple[Block, ...]"
    note: Cell | str = ""
    """Beside the title."""
    look: Literal["", "fold", "closed", "card", "half", "point"] = ""
    facts: tuple[Any, ...] = ()
    """Records that stand in report.json."""
    block: Literal["section"] = "section"


Block = Annotated[
    Text | Bullets | Code | Table | Figure | Figures | Legend | Samples | Answers | Fold | Section,
    Field(discriminator="block"),
]
for _waiting in (Figures, Fold, Section):
    rebuild_dataclass(_waiting)  # pyright: ignore[reportArgumentType] - pydantic takes dataclasses
