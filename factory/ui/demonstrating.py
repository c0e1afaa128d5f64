"""The verb `demo`: the report of a real build that comes with the package."""

import json
import zipfile
from collections.abc import Iterator
from typing import Any

from factory.core.errors import ArtifactError
from factory.core.files import write_file
from factory.core.readable import duration, percent, plural, point_span, points
from factory.core.shipped import PACKAGE
from factory.ui.options import STORE, AsJson, Store
from factory.ui.verbs import errors_in_words, open_console, print_json, say_next

SAMPLE = PACKAGE / "report" / "sample.zip"
FILES = ("report.html", "report.md", "report.json")


@errors_in_words
def demo(as_json: AsJson = False, store: Store = STORE) -> None:
    """Show the report of a finished build, which comes with the package; nothing is computed."""
    console = open_console()
    texts = sample()
    report = json.loads(texts["report.json"])
    folder = store / "reports" / "demo"
    if (folder / "recipe.json").exists():
        raise ArtifactError(f"{folder}: holds the report of a recipe named demo: name a --store")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_file(folder / name, text)
    page = folder / "report.html"
    if as_json:
        print_json(console, report=str(page), **{k: report[k] for k in ("recipe", "headline")})
        return
    for line in _lines(report):
        console.print(line, highlight=False)
    console.print(f"report: {page}", soft_wrap=True)
    say_next(console, "factory build smoke")


def sample() -> dict[str, str]:
    """The three forms of the sample report by file name."""
    with zipfile.ZipFile(SAMPLE) as archive:
        return {name: archive.read(name).decode() for name in FILES}


def _lines(report: dict[str, Any]) -> Iterator[str]:
    made = [row["made"] for row in report["stages"]]
    seconds = duration(sum(row["seconds"] for row in made))
    commit = ", ".join(name[:12] for name in report["commits"])
    yield (
        f"A build of the recipe {report['recipe']}: {plural(len(made), 'stage')} in {seconds} on a "
        f"machine without a GPU, one run, code {commit}."
    )
    yield report["headline"]["sentence"]
    for claim in report["sections"]["claims"]:
        finding = claim["finding"]
        change = finding["difference"]
        values = f"{percent(finding['mean_of'])} against {percent(finding['mean_against'])}"
        by = f"{points(change['value'])} points {point_span(change['low'], change['high'])}"
        yield f"{finding['verdict']}: {claim['text']}: {values}, {by}, n = {change['n']}"
