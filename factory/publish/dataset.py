"""A trace set as a data set: parquet, a card, and checks of every row."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from factory.core.artifacts import Artifact
from factory.core.files import write_file
from factory.core.jsonl import read_records
from factory.core.readable import count, percent
from factory.core.records import Problem, Trace
from factory.problems.splits import question_key
from factory.publish.card import CHECKING, licences_text, origins_table
from factory.publish.gate import Check, check
from factory.publish.licences import Source, Terms
from factory.publish.lineage import Origin
from factory.publish.scan import machine_path_in, secret_in
from factory.report.markdown import markdown_text as plain
from factory.report.markdown import table

ROWS_A_FILE = 50_000
COLUMNS = {
    "problem_id": "the problem, the same in every set made from it",
    "sample": "which of the problem's completions",
    "question": "the problem's text",
    "reasoning": "the thoughts; null where the text opened none",
    "answer": "the answer; null where the text is not well-formed",
    "prompt": "the text the model was given, template included",
    "completion": "the text it returned",
    "outcome": "the grader's verdict",
    "explanation": "its reason",
    "finish_reason": "stop; length where it was cut; loop where it was ended for repeating itself",
    "completion_tokens": "tokens of the completion",
    "temperature": "0 is greedy",
    "top_p": "",
    "max_new_tokens": "",
    "seed": "of this completion's random stream",
    "model": "fingerprint of the model that wrote it; empty for a written one",
}


def rows(traces: Iterator[Trace]) -> Iterator[dict[str, Any]]:
    """One flat row a trace."""
    for trace in traces:
        named = {
            **trace.model_dump(include=set(COLUMNS) & set(Trace.model_fields)),
            "outcome": trace.verdict.outcome,
            "explanation": trace.verdict.explanation,
            "temperature": trace.sampling.temperature,
            "top_p": trace.sampling.top_p,
            "max_new_tokens": trace.sampling.max_new_tokens,
        }
        # A seed has up to 64 bits without a sign: more than parquet's integers hold.
        yield {**{name: named[name] for name in COLUMNS}, "seed": str(trace.seed)}


def write_rows(
    artifact: Artifact, lineage: Sequence[Artifact], folder: Path, places: tuple[Path, ...]
) -> list[Check]:
    """Write data/*.parquet and check every row as it is read back from there."""
    from datasets import Dataset, Features, Value, load_dataset

    types = {"sample": "int64", "completion_tokens": "int64", "max_new_tokens": "int64",
             "temperature": "float64", "top_p": "float64"}  # fmt: skip
    features = Features({name: Value(types.get(name, "string")) for name in COLUMNS})
    with tempfile.TemporaryDirectory(prefix="factory-publish-") as cache:
        made = Dataset.from_generator(
            rows,
            features=features,
            cache_dir=cache,
            gen_kwargs={"traces": artifact.traces()},
            fingerprint=artifact.fingerprint,
        )
        files = max(1, -(-len(made) // ROWS_A_FILE))
        (folder / "data").mkdir()
        for number in range(files):
            part = made.shard(files, number, contiguous=True)
            part.to_parquet(folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet")
        paths = sorted(str(path) for path in (folder / "data").iterdir())
        back = load_dataset("parquet", data_files=paths, split="train", cache_dir=cache)
        return _row_checks(artifact, _held_out(lineage), back, places)


def _row_checks(
    artifact: Artifact, held_out: set[str], back: Any, places: tuple[Path, ...]
) -> list[Check]:
    """Every row equals its trace; none holds a secret, a path or a held-out question."""
    unequal, hidden, named, leaked, total = [], [], [], [], 0
    for number, (row, read) in enumerate(zip(rows(artifact.traces()), back, strict=False)):
        total += 1
        if row != read:
            unequal.append(f"row {number}: differs from its trace")
        text = "\n".join(value for value in row.values() if isinstance(value, str))
        if kind := secret_in(text):
            hidden.append(f"row {number}: looks like {kind}")
        if path := machine_path_in(text, places):
            named.append(f"row {number}: names a folder of this machine: {path}")
        if question_key(row["question"]) in held_out:
            leaked.append(f"row {number}: its question is held out for evaluation")
    if len(back) != sum(1 for _ in artifact.traces()):
        unequal.append(f"{len(back)} rows, not as many as traces")
    return [
        check("rows", unequal, f"{total} rows, each as its trace"),
        check("row secrets", hidden, "no token-like string in a row"),
        check("row paths", named, "no row names a folder of this machine"),
        check("held out", leaked, f"none of {len(held_out)} held-out questions is in it"),
    ]


def _held_out(lineage: Sequence[Artifact]) -> set[str]:
    return {
        question_key(problem.prompt)
        for artifact in lineage
        if artifact.manifest.kind == "problems"
        for problem in read_records(artifact.file("held_out.jsonl"), Problem)
    }


def write_card(
    name: str,
    artifact: Artifact,
    origins: Sequence[Origin],
    sources: Sequence[Source],
    terms: Terms,
    folder: Path,
) -> None:
    """README.md of a data set, from data only."""
    from huggingface_hub import DatasetCardData

    total = correct = tokens = 0
    for trace in artifact.traces():
        total, tokens = total + 1, tokens + trace.completion_tokens
        correct += trace.verdict.is_correct
    data = DatasetCardData(
        license=terms.licence,
        pretty_name=name,
        task_categories=["text-generation"],
        tags=["distill-factory", "reasoning"],
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
    )
    share = percent(correct / total if total else 0.0)
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {plain(name)}",
        plain(
            f"{count(total)} graded completions with {count(tokens)} tokens, {share} of them "
            f"graded correct, of stage {artifact.manifest.stage!r} of a distill-factory recipe."
        ),
        *(f"**{plain(notice)}**" for notice in terms.notices),
        "The texts were written by a model. They may be wrong, and nothing in them is an "
        "instruction to anybody.",
        "## Columns\n\n" + table(("column", "is"), list(COLUMNS.items())),
        "## How it was made\n\n" + origins_table(origins),
        "## Licences\n\n" + licences_text(sources, terms),
        "## How to check it\n\n" + CHECKING,
    ]
    write_file(folder / "README.md", "\n\n".join(parts) + "\n")
