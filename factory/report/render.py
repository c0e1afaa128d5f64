"""Report -> HTML, Markdown, JSON. The HTML asks for nothing outside itself.

The one script that it runs is the browser of answers, where there are answers.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from factory.files import with_hash, write_file
from factory.report import (
    charts,
    claims,
    estimates,
    evolution_charts,
    figures,
    flow,
    preferences,
    text,
    views,
)
from factory.report.browser import packed
from factory.report.markdown import markdown
from factory.report.records import Report

FOLDER = Path(__file__).parent


def write(report: Report, folder: Path) -> Path:
    """Write report.html, report.md and report.json into `folder`; returns the HTML's path.

    The JSON file ends with a hash of itself: `diff` quotes it where no artifact is at hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "report.md", render_markdown(report))
    write_file(folder / "report.json", with_hash(render_json(report)))
    page = folder / "report.html"
    write_file(page, render_html(report))
    return page


def render_json(report: Report) -> str:
    """The whole report; `Report.model_validate_json` reads it back."""
    content = report.model_dump(mode="json")
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def render_markdown(report: Report) -> str:
    """The same story in Markdown, its text escaped and its samples in fences they cannot close."""
    return markdown(report)


UNFOLDED = 8
"""Runs of a section whose plots are shown at once; a recipe may have dozens."""


def render_html(report: Report) -> str:
    """One page: inline SVG and CSS, and a policy that lets the browser load nothing.

    Style sheet and script are allowed by their own hashes, so nothing injected works, not even a
    `style` attribute; and where the browser knows trusted types, no text can become markup.
    """
    style, style_hash = _inlined("report.css")
    script, script_hash, index, blocks = None, None, "", []
    if report.browser is not None and report.browser.problems:
        script, script_hash = _inlined("browser.js")
        index, blocks = packed(report.browser)
    page = _environment().get_template("report.html.j2")
    return page.render(
        report=report,
        style=style,
        style_hash=style_hash,
        script=script,
        script_hash=script_hash,
        answers_index=index,
        answers_blocks=blocks,
        cards=views.scorecards(report),
        totals=views.totals(report),
        claims=claims,
        views=views,
        preferences=preferences,
        estimates=estimates,
        figures=figures,
        panels=charts.panels,
        evolution_panels=evolution_charts.evolution_panels,
        flow=flow.flow(report),
        unfolded=UNFOLDED,
        longest=max((row.made.seconds for row in report.stages if row.made), default=0.0),
    )


def _inlined(name: str) -> tuple[Markup, str]:
    """A file of ours as the content of an element, and the hash by which the policy allows it."""
    text = "\n" + (FOLDER / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "visible",
        "tied",
        "percent",
        "span",
        "points",
        "count",
        "duration",
        "size",
        "figure",
        "plural",
    )
    environment.filters.update({name: getattr(text, name) for name in names})
    return environment
