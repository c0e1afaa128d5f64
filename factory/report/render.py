"""A build -> HTML, Markdown, JSON: every section of the door, in its place."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from factory.core.blocks import Section, Text
from factory.core.errors import FactoryError
from factory.core.files import with_hash, write_file
from factory.core.readable import count, duration, plural
from factory.core.registry import Row
from factory.report import html
from factory.report.build import Build, once
from factory.report.foreign import foreign
from factory.report.markdown import markdown
from factory.report.records import Report
from factory.report.scorecard import tallies
from factory.report.section import SECTIONS, SectionRow, in_order
from factory.report.sections.cost import totals
from factory.report.sections.result import headline
from factory.report.verdict import verdict


def write(build: Build, folder: Path) -> Path:
    """Write report.html, report.md and report.json into `folder`; returns the HTML's path.

    The JSON file ends with a hash of itself: `diff` quotes it where no artifact is at hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "report.md", render_markdown(build))
    write_file(folder / "report.json", with_hash(render_json(build)))
    page = folder / "report.html"
    write_file(page, render_html(build))
    return page


def render_html(build: Build) -> str:
    """One page that loads nothing."""
    return html.page(build.recipe, build.description, _facts(build), sections(build))


def render_markdown(build: Build) -> str:
    """The same in Markdown, its text escaped and its samples in fences they cannot close."""
    parts = [section for _, section in sections(build)]
    return markdown(f"{build.recipe}: build report", build.description, parts)


def render_json(build: Build) -> str:
    """The facts; `Report.model_validate_json` reads them back."""
    content = report_of(build).model_dump(mode="json")
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def report_of(build: Build) -> Report:
    """What report.json holds."""
    return Report(
        recipe=build.recipe,
        description=build.description,
        headline=headline(build),
        verdict=verdict(build),
        stages=build.stages,
        evaluations=build.evaluations,
        comparisons=build.comparisons,
        tallies=tuple(tallies(build.evaluations, build.answers)),
        packages=build.packages,
        machine=build.machine,
        commits=build.commits,
        sections={
            name: tuple(map(_json, section.facts))
            for name, section in sections(build)
            if section.facts
        },
    )


def _json(fact: Any) -> Any:
    return fact.model_dump(mode="json") if isinstance(fact, BaseModel) else fact


def failures(build: Build) -> tuple[str, ...]:
    """What went wrong in sections of plug-ins: a line each."""
    return _made(build)[1]


def sections(build: Build) -> list[tuple[str, Section]]:
    """Every section that has something to show, by name, in the order of the report."""
    return _made(build)[0]


@once
def _made(build: Build) -> tuple[list[tuple[str, Section]], tuple[str, ...]]:
    """The sections, and what was wrong with those of plug-ins; one that fails says so itself.

    Raises ArtifactError or DataError where an artifact's files are missing or malformed.
    """
    rows: list[Row[SectionRow]] = []
    faults: dict[str, str] = {}
    for name in SECTIONS.names():
        try:
            rows.append(SECTIONS.row(name))
        except FactoryError as error:
            faults[name] = str(error)
    made: list[tuple[str, Section]] = []
    try:
        for row in in_order(rows):
            is_own = row.origin.kind == "factory"
            section = row.value.function(build) if is_own else foreign(build).section(row)
            if section is not None:
                made.append((row.name, section))
    finally:
        foreign(build).close()
    made += [(name, Section(name, (Text(fault, "worse"),))) for name, fault in faults.items()]
    return made, (*faults.values(), *foreign(build).faults)


def _facts(build: Build) -> str:
    """`22 stages, 3 not made · together 2 h 10 min · ...`."""
    parts = [plural(len(build.stages), "stage")]
    if build.missing:
        parts[0] += f", {len(build.missing)} not made"
    total = totals(build)
    if total is not None:
        parts.append(f"together {duration(total.seconds)}")
        parts += [f"{count(total.tokens)} tokens sampled"] if total.tokens else []
        parts.append(f"peak memory {total.peak_memory_gib:.1f} GiB")
    for commit in build.commits:
        changes = " with local changes" if commit.endswith("(dirty)") else ""
        parts.append(f"code {commit[:12]}{changes}")
    return " · ".join(parts)
