"""Tables of promises: each row names a test that holds it, and each test that is named exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("docs/security.md", "docs/sandbox.md")
SOURCES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
FUNCTIONS = {
    name for text in SOURCES.values() for name in re.findall(r"^def (test_\w+)", text, re.M)
}
FILES = {path.relative_to(ROOT).as_posix() for path in SOURCES} | {path.stem for path in SOURCES}
ATTACKS = set(
    re.findall(r'^    "([^"]+)": ', SOURCES[ROOT / "tests/pipeline/test_sandbox.py"], re.M)
)


def rows(document: str) -> list[str]:
    """The rows of tables that have a column `held by`."""
    promises, is_table = [], False
    for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
        is_table = line.startswith("|") and (is_table or "held by |" in line)
        if is_table and not line.startswith("|---") and "held by |" not in line:
            promises.append(line)
    return promises


def named(text: str) -> set[str]:
    """Tests that a text names: files, and functions of them."""
    return set(re.findall(r"`((?:tests/)?[\w/]*\btest_\w+(?:\.py)?)`", text))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_promise_names_what_holds_it_and_every_name_is_one(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert named(text) - FUNCTIONS - FILES == set()
    assert len(rows(document)) >= 9
    for row in rows(document):
        attacks = re.findall(r"attacks? ((?:`[^`]+`(?:, )?)+)", row)
        names = {name for part in attacks for name in re.findall(r"`([^`]+)`", part)}
        assert names <= ATTACKS, row
        assert named(row) or names or "the same tests" in row, row
