"""The shipped sample report: at once, with nothing heavy, and with the page's own numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from factory.cli import app
from factory.core.interpreter import SAFE_PATH
from factory.report.difference import open_report
from factory.ui.demonstrating import FILES, SAMPLE, sample

LIGHT = {"annotated_doc", "annotated_types", "click", "markdown_it", "mdurl", "pydantic",
         "pydantic_core", "pygments", "rich", "shellingham", "typer", "typing_extensions",
         "typing_inspection", "yaml", "factory"}  # fmt: skip
PROGRAM = f"""
import sys
LIGHT = {sorted(LIGHT)!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {*LIGHT, *sys.stdlib_module_names} and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from factory.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""
SECONDS = 2.0


def test_the_demo_answers_at_once_where_nothing_heavy_is_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "demo", "--store", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), **SAFE_PATH},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Of processor time, which is the time of an idle machine.
    assert float(done.stdout.splitlines()[-1]) < SECONDS
    assert {path.name for path in (tmp_path / "reports" / "demo").iterdir()} == set(FILES)


def test_what_the_demo_says_is_what_its_page_says(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--store", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text, page = " ".join(done.stdout.split()), sample()["report.html"].replace("\u00a0", " ")
    report = json.loads(sample()["report.json"])
    assert report["headline"]["sentence"] in text and report["headline"]["sentence"] in page
    assert not any(name.endswith("(dirty)") for name in report["commits"])
    for claim in report["sections"]["claims"]:
        assert claim["text"] in text and claim["text"] in page
    opened = open_report(str(tmp_path / "reports" / "demo"), tmp_path)
    assert opened.recipe == report["recipe"], "it is a report as any other, with its own hash"
    assert SAMPLE.stat().st_size < 400_000


def test_the_page_names_no_folder_of_whoever_made_it() -> None:
    for text in sample().values():
        assert re.findall(r"(?<![\w.:/<*)])/(?:[a-z][\w.-]*/){2,}[\w.-]+", text) == []
        assert not [name for name in ("/tmp/", "/home/", "/root") if name in text]


@pytest.mark.parametrize("again", [False, True])
def test_the_demo_leaves_other_reports_alone(again: bool, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "demo"
    folder.mkdir(parents=True)
    if not again:
        (folder / "recipe.json").write_text("{}", encoding="utf-8")
    done = CliRunner().invoke(app, ["demo", "--store", str(tmp_path)])
    assert done.exit_code == (0 if again else 2)
    assert (folder / "report.html").exists() == again
