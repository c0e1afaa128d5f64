"""Blocks -> Markdown for a terminal or a pull request: what the page says, but for its pictures.

Text is made safe here: no Markdown or HTML in it acts, and a fence outruns what stands inside.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from factory.core import blocks as show
from factory.core.readable import count, plural
from factory.text.visible import visible

_ACTIVE = re.compile(r"([\\`*_\[\]|~<&])|^(?=[#+=>-])|^(\d+)(?=[.)])")


def markdown_text(text: str) -> str:
    """One line of plain text that no Markdown or HTML in it can escape from."""
    flat = " ".join(visible(text).split())
    return _ACTIVE.sub(_escaped, flat)


def _escaped(match: re.Match[str]) -> str:
    character, digits = match.groups()
    if digits is not None:
        return f"{digits}\\"
    return {"<": "&lt;", "&": "&amp;"}.get(character, f"\\{character or ''}")


def markdown_block(text: str, language: str = "text") -> str:
    """A fenced block that the text cannot close: the fence outruns its longest run of backticks."""
    runs = [len(run) for run in re.findall(r"`+", text)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()
) -> str:
    """A table whose columns `right` are right-aligned; every cell is escaped."""
    rules = ["---:" if column in set(right) else "---" for column in range(len(header))]
    body = ["| " + " | ".join(map(markdown_text, line)) + " |" for line in (header, *rows)]
    return "\n".join([body[0], "| " + " | ".join(rules) + " |", *body[1:]])


def markdown(title: str, lead: str, sections: Iterable[show.Section]) -> str:
    """A whole document."""
    parts = [f"# {markdown_text(title)}", markdown_text(lead)]
    parts += [part for section in sections for part in _section(section, 2)]
    return "\n\n".join(part for part in parts if part) + "\n"


def blocks(rows: Iterable[show.Block], level: int = 3) -> str:
    """Blocks as a part of a document; sections among them have titles of that level."""
    return "\n\n".join(part for row in rows for part in _parts(row, level))


def _section(section: show.Section, level: int) -> Iterator[str]:
    note = f" ({show.cell_of(section.note).text})" if section.note else ""
    yield f"{'#' * level} {markdown_text(section.title + note)}"
    for row in section.blocks:
        yield from _parts(row, level + 1)


def _parts(block: show.Block, level: int) -> Iterator[str]:
    match block:
        case show.Text(text, look):
            plain = markdown_text(text)
            yield f"**{plain}**" if look in ("headline", "strong") else plain
        case show.Bullets(items):
            yield "\n".join(f"- {markdown_text(item)}" for item in items)
        case show.Code(text, language=language):
            yield markdown_block(text, language)
        case show.Table():
            yield _table(block)
        case show.Figures():
            yield from (part for row in block.instead for part in _parts(row, level))
        case show.Samples(samples):
            yield from map(_sample, samples)
        case show.Answers():
            yield "The page report.html has a browser for them."
        case show.Fold() if not block.on_page_only:
            yield f"{markdown_text(block.title)}:"
            yield from (part for row in block.blocks for part in _parts(row, level))
        case show.Section():
            yield from _section(block, level)
        case show.Figure() | show.Legend() | show.Fold():
            return


def _table(block: show.Table) -> str:
    columns = [column for column, name in enumerate(block.header) if name]
    rows = [_padded(row) for row in (*block.rows, *((block.foot,) if block.foot else ()))]
    return table(
        [block.header[column] for column in columns],
        [[_words(row[column]) for column in columns] for row in rows],
        right=[index for index, column in enumerate(columns) if column in block.right],
    )


def _padded(row: Sequence[show.AnyCell]) -> list[show.Cell]:
    cells = map(show.cell_of, row)
    return [each for cell in cells for each in (cell, *[show.Cell()] * (cell.span - 1))]


def _words(cell: show.Cell) -> str:
    """`31.2 % [28.0, 34.4]`, `student, sft`: a cell on one line."""
    if not cell.note:
        return cell.text
    return f"{cell.text}{' ' if cell.note.startswith('[') else ', '}{cell.note}"


def _sample(sample: show.Sample) -> str:
    facts = f"{show.OUTCOME_WORDS[sample.outcome]}, {plural(sample.tokens, 'token')}"
    lines = [f"**{markdown_text(sample.label)}**: {facts}. {markdown_text(sample.explanation)}"]
    lines.append(markdown_block(sample.completion))
    if sample.cut:
        lines.append(f"{count(sample.cut)} further characters are not shown.")
    return "\n\n".join(lines)
