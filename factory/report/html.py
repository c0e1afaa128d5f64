"""Blocks -> one page that asks for nothing outside itself: inline SVG and CSS, no loading.

Style sheet and scripts are allowed by their own hashes, so nothing injected works, not even a
`style` attribute; and where the browser knows trusted types, no text can become markup. All text
passes `svg.tag`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from markupsafe import Markup

from factory.core import blocks as show
from factory.core.readable import count, plural, tied
from factory.core.records import Outcome
from factory.report.document import document, lines
from factory.report.figures import draw_bar
from factory.report.svg import tag

GRIDS = {"card": "wide-panels", "half": "two", "point": "points"}
"""How parts of one look stand beside each other."""
NARROW = 2
"""Columns up to which a table fits a phone as it is."""
WIDE = 5
"""Columns from which on a tablet is too narrow too."""
OUTCOME_MARKS: dict[Outcome, str] = {
    "correct": "✓", "wrong": "✗", "no_answer": "∅", "truncated": "✂", "timeout": "⧗",
    "crashed": "↯", "ungradable": "?",
}  # fmt: skip


def page(
    title: str,
    lead: str,
    facts: str,
    sections: Sequence[tuple[str, show.Section]],
    kind: str = "Build report",
) -> str:
    """The whole page; each section has a name, by which it is linked to."""
    packed = [block for _, section in sections for block in _answers(section.blocks)]
    header = [
        tag("p", kind, class_="eyebrow"),
        tag("h1", title),
        tag("p", lead, class_="lead") if lead else Markup(),
        tag("p", facts, class_="dim"),
    ]
    main = [section_of_page(name, section) for name, section in sections]
    body = [
        *(
            tag("a", "Skip the contents", href=f"#{name}", class_="skip")
            for name, _ in sections[:1]
        ),
        tag("header", lines(header), class_="top"),
        contents([(name, _nav(name)) for name, _ in sections]),
        tag("main", lines(main)),
    ]
    scripts = ["page.js", *(["browser.js"] if packed else [])]
    data = _data(packed[0]) if packed else ()
    return document(f"{title} · {kind.lower()}", body, scripts=scripts, data=data)


def contents(names: Sequence[tuple[str, str]], *, are_hidden: bool = False) -> Markup:
    """Links to the sections of a page, in view wherever the reader is: (name, words)."""
    hidden = "" if are_hidden else None
    links = [tag("li", tag("a", words, href=f"#{name}"), hidden=hidden) for name, words in names]
    return tag("nav", tag("ul", *links), aria_label="Sections")


def _nav(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _answers(blocks: Iterable[show.Block]) -> Iterator[show.Answers]:
    return (block for block in blocks if isinstance(block, show.Answers))


def _data(block: show.Answers) -> Iterator[Markup]:
    """What the script unpacks: text to a browser, which runs none of it."""
    names = ["answers-index", *(f"answers-{number}" for number in range(len(block.texts)))]
    for name, text in zip(names, (block.index, *block.texts), strict=True):
        yield tag("script", text, type_="text/plain", id_=name)


def section_of_page(name: str, section: show.Section) -> Markup:
    """A section as it stands on a page, under its name."""
    return _section(section, 2, name)


def _section(section: show.Section, level: int, name: str | None = None) -> Markup:
    note = _span(show.cell_of(section.note), "dim") if section.note else ""
    title = tag(f"h{level}", section.title, " " if note else "", note)
    content = _blocks(section.blocks, level + 1)
    if section.look in ("fold", "closed"):
        is_open = "" if section.look == "fold" else None
        return tag("details", tag("summary", title), content, class_="run", open_=is_open)
    if section.look == "card":
        return tag("div", title, content, class_="card fates")
    if section.look in ("half", "point"):
        return tag("div", title, content, class_="card point" if section.look == "point" else None)
    if name is None:
        return Markup(title + content)
    return tag("section", title, content, id_=name, **_attributes(section))


def _attributes(section: show.Section) -> dict[str, str]:
    """What the script of the answers writes outcomes with."""
    if not any(_answers(section.blocks)):
        return {}
    return {"data_words": json.dumps(show.OUTCOME_WORDS), "data_marks": json.dumps(OUTCOME_MARKS)}


def _blocks(blocks: Iterable[show.Block], level: int) -> Markup:
    marked_up: list[Markup] = []
    for look, group in groupby(blocks, key=_grid):
        parts = [_block(block, level) for block in group]
        marked_up += [tag("div", lines(parts), class_=look)] if look else parts
    return lines(marked_up)


def _grid(block: show.Block) -> str:
    if isinstance(block, show.Figure):
        return "panels"
    return GRIDS.get(block.look, "") if isinstance(block, show.Section) else ""


def _block(block: show.Block, level: int) -> Markup:
    match block:
        case show.Text():
            return _text(block)
        case show.Bullets(items, look):
            return tag("ul", *(tag("li", tied(item)) for item in items), class_=look or None)
        case show.Code(text, look):
            if look == "quote":
                return tag("blockquote", tag("pre", text))
            return tag("pre", text, class_=look or None)
        case show.Table():
            return _table(block)
        case show.Figure():
            return _figure(block)
        case show.Figures(figures, size) if size == "full":
            return lines(_wide(figure) for figure in figures)
        case show.Figures(figures, size):
            look = {"small": "panels", "wide": "wide-panels", "picture": "picture"}[size]
            return tag("div", lines(map(_figure, figures)), class_=look)
        case show.Legend(items):
            marks = [
                tag("li", tag("span", "", class_=f"swatch {look}"), words)
                if look
                else tag("li", words, class_="dim")
                for look, words in items
            ]
            return tag("ul", *marks, class_="legend")
        case show.Samples(samples):
            return tag("div", *map(_sample, samples), class_="samples")
        case show.Answers():
            return BROWSER
        case show.Fold(title, blocks, is_open):
            return tag(
                "details", tag("summary", title), _blocks(blocks, level),
                open_="" if is_open else None,
            )  # fmt: skip
        case show.Section():
            return _section(block, level)


def _text(block: show.Text) -> Markup:
    text = tied(block.text)
    if block.look == "strong":
        return tag("p", tag("strong", text))
    reading = f"reading {block.look}" if block.look in ("better", "worse") else block.look
    return tag("p", text, class_=reading or None)


def _table(block: show.Table) -> Markup:
    heads = [
        tag("th", name or tag("span", "bar", class_="quiet"), scope="col", role="columnheader",
            class_="n" if column in block.right else None)
        for column, name in enumerate(block.header)
    ]  # fmt: skip
    body = [_row(row, block) for row in block.rows]
    parts = [
        tag("thead", tag("tr", *heads, role="row"), role="rowgroup"),
        tag("tbody", lines(body), role="rowgroup"),
    ]
    if block.foot:
        parts.append(tag("tfoot", _row(block.foot, block), role="rowgroup"))
    size = (
        "cards wide" if len(block.header) > WIDE else "cards" if len(block.header) > NARROW else ""
    )
    looks = [block.look, size]
    # Roles are said: a phone shows the rows as cards, and what is no table to look at would be none
    # to a screen reader either.
    element = tag("table", *parts, class_=" ".join(filter(None, looks)) or None, role="table")
    label = block.label or block.header[0]
    return tag("div", element, class_="scroll", tabindex="0", role="region", aria_label=label)


def _row(row: Sequence[show.AnyCell], block: show.Table) -> Markup:
    cells, column = [], 0
    for cell in map(show.cell_of, row):
        name = "th" if column == 0 else "td"
        is_bare = cell.bar is not None and not cell.text
        look = "barcell" if is_bare else "n" if column in block.right and cell.span == 1 else None
        if cell.span > 1:
            look = cell.look or None
        is_empty = not cell.text and cell.bar is None
        cells.append(
            tag(name, *_content(cell), scope="row" if column == 0 else None,
                role="rowheader" if column == 0 else "cell",
                class_=" ".join(filter(None, [look, "empty" if is_empty else ""])) or None,
                data_label=block.header[column] if column and cell.span == 1 else None,
                colspan=cell.span if cell.span > 1 else None)
        )  # fmt: skip
        column += cell.span
    return tag("tr", *cells, role="row")


def _content(cell: show.Cell) -> Iterator[str]:
    if cell.bar is not None:
        yield draw_bar(cell.bar)
    yield cell.text if cell.span > 1 else _span(cell, "")
    if cell.note:
        yield tag("br")
        yield tag("span", cell.note, class_="dim")


def _span(cell: show.Cell, look: str) -> str:
    look = cell.look or look
    if not look:
        return cell.text
    return tag("code", cell.text) if look == "code" else tag("span", cell.text, class_=look)


def _figure(figure: show.Figure) -> Markup:
    keys = [
        tag("span", *([tag("span", "", class_=f"swatch {look}"), f"{name} "] if name else []),
            tag("span", last, class_="dim"), class_="key")
        for look, name, last in _named(figure.keys)
    ]  # fmt: skip
    caption = [
        figure.title,
        *([" ", tag("span", figure.note, class_="dim")] if figure.note else []),
        *([tag("span", *keys, class_="keys")] if keys else []),
    ]
    solo = "solo" if len(keys) == 1 else None
    return tag("figure", tag("figcaption", *caption, class_=solo), figure.picture, class_="card")


def _named(keys: Sequence[tuple[str, str, str]]) -> Sequence[tuple[str, str, str]]:
    """The keys; a single line needs no name beside its title."""
    return keys if len(keys) != 1 else [("", "", keys[0][2])]


def _wide(figure: show.Figure) -> Markup:
    element = tag("div", figure.picture, class_="flow")
    label = {"role": "region", "aria_label": figure.title}
    return tag("div", element, class_="scroll card", tabindex="0", **label)


def _sample(sample: show.Sample) -> Markup:
    verdict = f"{OUTCOME_MARKS[sample.outcome]} {show.OUTCOME_WORDS[sample.outcome]}"
    header = tag(
        "header",
        tag("span", sample.label, class_="who"), " ",
        tag("span", verdict, class_=f"verdict {sample.outcome}"), " ",
        tag("span", plural(sample.tokens, "token"), class_="dim"),
    )  # fmt: skip
    parts = [header, _hidden("Prompt", sample.prompt)]
    if sample.reasoning is None and sample.answer is None:
        parts.append(tag("pre", sample.completion))
    else:
        if sample.reasoning is not None:
            parts.append(tag("pre", sample.reasoning, class_="thinking"))
        if sample.answer is not None:
            answer = tag("bdi", sample.answer)
            parts.append(
                tag("p", tag("span", "Answer", class_="dim"), " ", answer, class_="answer")
            )
        parts.append(_hidden("Exact text", sample.completion))
    if sample.cut:
        left_out = f"{count(sample.cut)} further characters are not shown here; they are in the "
        parts.append(tag("p", f"{left_out}artifact.", class_="dim"))
    parts.append(tag("p", tag("bdi", sample.explanation), class_="why dim"))
    return tag("article", lines(parts), class_="sample")


def _hidden(title: str, text: str) -> Markup:
    return tag("details", tag("summary", title), tag("pre", text))


BROWSER = Markup("""\
<p class="dim screen" data-part="notice">Unpacking the answers; this needs a browser that runs \
this page's script.</p>
<p class="paper">The answers are for leafing through on a screen; paper has none of them.</p>
<div class="browser screen" data-part="browser" hidden>
  <div class="filters" role="group" aria-label="Which answers">
    <label>Benchmark <select name="benchmark"></select></label>
    <label>Model <select name="model"></select></label>
    <label>Answers <select name="mode"></select></label>
    <label>Outcome <select name="outcome"></select></label>
    <label>Beside it <select name="beside"></select></label>
    <label>Its outcome <select name="other" disabled></select></label>
    <label class="search">Text in question, thoughts or answer <input type="search" \
data-part="search" autocomplete="off" spellcheck="false"></label>
  </div>
  <div class="finder">
    <div class="found">
      <p class="pages"><button type="button" data-part="earlier" aria-label="Earlier answers">◂\
</button> <span data-part="count" role="status"></span> <button type="button" data-part="later" \
aria-label="Later answers">▸</button></p>
      <ol data-part="list" aria-label="Answers; the arrow keys move through them"></ol>
    </div>
    <div class="looked" data-part="detail"></div>
  </div>
</div>""")
"""What `browser.js` fills."""
