"""Blocks -> one page that asks for nothing outside itself: inline SVG and CSS, no loading.

Style sheet and script are allowed by their own hashes, so nothing injected works, not even a
`style` attribute; and where the browser knows trusted types, no text can become markup. The one
script is the browser of answers, where there are answers. All text passes `svg.tag`.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from factory import blocks as show
from factory.readable import count, plural, tied
from factory.records import Outcome
from factory.report.figures import draw_bar
from factory.report.svg import tag

FOLDER = Path(__file__).parent
GRIDS = {"card": "wide-panels", "half": "two"}
"""How parts of one look stand beside each other."""
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
    style, style_hash = _inlined("report.css")
    packed = [block for _, section in sections for block in _answers(section.blocks)]
    allowed, scripts = "", Markup()
    if packed:
        script, script_hash = _inlined("browser.js")
        allowed = f"script-src '{script_hash}'; require-trusted-types-for 'script'; "
        scripts = _lines([*_data(packed[0]), tag("script", script)])
    policy = (
        f"default-src 'none'; style-src '{style_hash}'; {allowed}img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · {kind.lower()}"),
        tag("style", style),
    ]
    names = [tag("li", tag("a", _nav(name), href=f"#{name}")) for name, _ in sections]
    header = [
        tag("p", kind, class_="eyebrow"),
        tag("h1", title),
        tag("p", lead, class_="lead") if lead else Markup(),
        tag("p", facts, class_="dim"),
        tag("nav", tag("ul", *names), aria_label="Sections"),
    ]
    main = [_section(section, 2, name) for name, section in sections]
    body = [tag("header", _lines(header), class_="top"), tag("main", _lines(main)), scripts]
    document = tag("html", tag("head", _lines(head)), tag("body", _lines(body)), lang="en")
    return f"<!doctype html>\n{document}\n"


def _nav(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _lines(parts: Iterable[Markup]) -> Markup:
    return Markup("\n" + "\n".join(part for part in parts if part) + "\n")


def _inlined(name: str) -> tuple[Markup, str]:
    """A file of ours as the content of an element, and the hash by which the policy allows it."""
    text = "\n" + (FOLDER / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


def _answers(blocks: Iterable[show.Block]) -> Iterator[show.Answers]:
    return (block for block in blocks if isinstance(block, show.Answers))


def _data(block: show.Answers) -> Iterator[Markup]:
    """What the script unpacks: text to a browser, which runs none of it."""
    names = ["answers-index", *(f"answers-{number}" for number in range(len(block.texts)))]
    for name, text in zip(names, (block.index, *block.texts), strict=True):
        yield tag("script", text, type_="text/plain", id_=name)


def _section(section: show.Section, level: int, name: str | None = None) -> Markup:
    note = _span(show.cell_of(section.note), "dim") if section.note else ""
    title = tag(f"h{level}", section.title, " " if note else "", note)
    content = _blocks(section.blocks, level + 1)
    if section.look in ("fold", "closed"):
        is_open = "" if section.look == "fold" else None
        return tag("details", tag("summary", title), content, class_="run", open_=is_open)
    if section.look == "card":
        return tag("div", title, content, class_="card fates")
    if section.look == "half":
        return tag("div", title, content)
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
        marked_up += [tag("div", _lines(parts), class_=look)] if look else parts
    return _lines(marked_up)


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
            return _lines(_wide(figure) for figure in figures)
        case show.Figures(figures, size):
            look = {"small": "panels", "wide": "wide-panels"}[size]
            return tag("div", _lines(map(_figure, figures)), class_=look)
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
        tag("th", name or tag("span", "bar", class_="quiet"), scope="col",
            class_="n" if column in block.right else None)
        for column, name in enumerate(block.header)
    ]  # fmt: skip
    body = [_row(row, block.right) for row in block.rows]
    parts = [tag("thead", tag("tr", *heads)), tag("tbody", _lines(body))]
    if block.foot:
        parts.append(tag("tfoot", _row(block.foot, block.right)))
    element = tag("table", *parts, class_=block.look or None)
    label = block.label or block.header[0]
    return tag("div", element, class_="scroll", tabindex="0", role="region", aria_label=label)


def _row(row: Sequence[show.AnyCell], right: set[int]) -> Markup:
    cells, column = [], 0
    for cell in map(show.cell_of, row):
        name = "th" if column == 0 else "td"
        is_bare = cell.bar is not None and not cell.text
        look = "barcell" if is_bare else "n" if column in right and cell.span == 1 else None
        if cell.span > 1:
            look = cell.look or None
        cells.append(
            tag(name, *_content(cell), scope="row" if column == 0 else None, class_=look,
                colspan=cell.span if cell.span > 1 else None)
        )  # fmt: skip
        column += cell.span
    return tag("tr", *cells)


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
    return tag("article", _lines(parts), class_="sample")


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
