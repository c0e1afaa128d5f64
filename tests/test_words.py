"""The glossary as a test: names that say nothing of what they name are no identifiers here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PHRASED = ("factory", "lab", "examples")
PACKAGES = (*PHRASED, "tests", "bench")
DIALECT = frozenset({"asked", "drawn", "found", "known", "one", "place", "some", "told", "whole"})
KEYS_OF_FILES = {
    "factory/core/records.py": {"asked"},
    "factory/stages/grpo/dynamic_sampling.py": {"asked"},
    "factory/report/sections/contamination.py": {"whole"},
}
"""Fields that are keys of files already written: scores.jsonl, rollouts, report.json."""
PHRASES = ("first so many", "So many of them", "once so many")


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module binds, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno
            case _:
                pass


def dialect(source: str, allowed: frozenset[str] | set[str] = frozenset()) -> list[tuple[str, int]]:
    forbidden = DIALECT - allowed
    return [(name, line) for name, line in identifiers(ast.parse(source)) if name in forbidden]


def modules(packages: tuple[str, ...] = PACKAGES) -> list[Path]:
    return sorted(path for name in packages for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_identifier_is_of_the_dialect(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    assert dialect(path.read_text(), KEYS_OF_FILES.get(name, set())) == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "def f(told): ...",
        "class A:\n    place: int",
        "[one for one in range(3)]",
        "def asked(): ...",
        "a.drawn = 2",
        "import os as known",
        "try: ...\nexcept Exception as whole: ...",
        "match 1:\n    case some: ...",
        "lambda one: one",
        "if (found := 3): ...",
    ],
)
def test_a_planted_word_is_named(source: str) -> None:
    assert len(dialect(source)) == 1


def test_exceptions_are_still_needed() -> None:
    for name, words in KEYS_OF_FILES.items():
        bound = {word for word, _ in identifiers(ast.parse((ROOT / name).read_text()))}
        assert words <= bound, name


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *modules(PHRASED)]),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_no_phrase_of_the_dialect_is_in_documents(path: Path) -> None:
    text = " ".join(path.read_text().split())
    assert [phrase for phrase in PHRASES if phrase in text] == []
