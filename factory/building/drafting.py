"""A first recipe from what a user has: traces, a student, questions. It guesses, and says what."""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from factory.core.errors import DataError, RecipeError
from factory.cost.shapes import SMOLLM2
from factory.reading.columns import PRESETS, guessed_problem
from factory.reading.files import data_files, read_rows
from factory.reading.survey import FIRST_ROWS, ReadingSettings, Survey, TableOfRows, survey
from factory.stages.foreign_folder import check_folder
from factory.stages.turns import fitting
from factory.text.visible import visible

NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
MARKS = {"opening": "<think>", "closing": "</think>"}
"""R1's form, which published traces have."""
HELD_OUT = 50
"""Questions that measure, at most; a tenth of those there are."""
RATES = ((30e6, 1e-4, 40), (1e6, 1e-3, 100), (0, 1e-2, 200))
"""(weights from which, learning rate, steps of few rows at least): with fewer a student does not
learn to stop. 1e-4 is R1's smallest student's (arXiv 2501.12948 v2); the others are ours."""
QUESTIONS = {
    "HuggingFaceH4/MATH-500": ("problem", "answer", "test"),
    "HuggingFaceH4/aime_2024": ("problem", "answer", "train"),
    "math-ai/aime25": ("problem", "answer", "test"),
}
"""Column of questions, column of answers and split of the benchmarks that suites name, too."""
CONTEXT_OF_ANSWER = 1024
"""Tokens of an answer of the evaluation of a small student."""


@dataclass(frozen=True)
class Draft:
    """A recipe as text, and what was guessed."""

    text: str
    stages: tuple[str, ...]
    said: tuple[str, ...]


def draft(
    name: str,
    *,
    traces: str,
    student: str,
    questions: str = "",
    machine: str = "",
    command: str = "",
) -> Draft:
    """The recipe; RecipeError and DataError say what cannot be read."""
    if not NAME.fullmatch(name):
        raise RecipeError(f"init {name}: a name is small letters, digits, _ and -, a letter first")
    said: list[str] = []
    source, stage = _traces(traces, said)
    held = _held_out(questions or traces, bool(questions), said) or _of_answers(source, stage, said)
    stages: dict[str, Any] = {"base": {"kind": "model", "source": _student(student)}}
    if held is not None:
        stages["held"] = {"kind": "problems", "sources": [held]}
        stage["unlike"] = ["held"]
    stages["traces"] = stage
    stages["kept"] = {
        "kind": "select", "traces": "traces", "outcomes": ["correct", "ungradable"],
        "max_per_problem": 16,
    }  # fmt: skip
    if turns := _turns(student):
        stages["base"]["turns"] = turns
        said.append(f"base: its tokenizer has no chat template: it is given {turns}")
    prompt = {"prefill": "<think>\n", "form": dict(MARKS)}
    stages["student"] = {
        "kind": "sft", "model": "base", "traces": "kept", "prompt": prompt,
        **_training(source, student, said),
    }  # fmt: skip
    if held is not None:
        measured = {
            "benchmarks": [{"name": "held", "problems": "held"}],
            "prompt": prompt, "samples": 0, "sampling": {"max_new_tokens": CONTEXT_OF_ANSWER},
        }  # fmt: skip
        for model in ("base", "student"):
            stages[f"eval_{model}"] = {"kind": "evaluate", "model": model, **measured}
    said.append(f"wrote {name}.yaml: {', '.join(stages)}")
    said = [_on_one_line(line) for line in said]
    head = [
        f"# Written by: {_on_one_line(command or f'factory init {name}')}",
        "# What it guessed stands below; every setting is in docs/reference.md of the factory.",
        *(f"#   {line}" for line in said[:-1]),
    ]
    if machine:
        build = f"factory build {name}.yaml --machine {shlex.quote(machine)}"
        head.append(f"# Build it with: {_on_one_line(build)}")
    body = _as_yaml({"name": name, "seed": 1, "stages": stages})
    return Draft("\n".join(head) + "\n" + body, tuple(stages), tuple(said))


def _on_one_line(text: str) -> str:
    """A remark in a recipe: names of files and of columns may hold what ends a line."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def _as_yaml(data: dict[str, Any]) -> str:
    """YAML for people: what stands at two places is written twice, and line breaks and characters
    that nobody sees as escapes."""
    writer: Any = yaml

    class Plain(writer.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        is_quoted = "\n" in value or value.startswith("<") or visible(value) != value
        style = '"' if is_quoted else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Plain.add_representer(str, text)
    body = writer.dump(
        data, Dumper=Plain, sort_keys=False, allow_unicode=True, width=100,
        default_flow_style=None,
    )  # fmt: skip
    hidden = {ord(c): f"\\U{ord(c):08x}" for c in set(body) if visible(c) != c}
    return body.translate(hidden)


def _hub(source: str) -> str:
    return source.removeprefix("hub:") if source.startswith("hub:") else ""


def _traces(traces: str, said: list[str]) -> tuple[Survey | None, dict[str, Any]]:
    """(the first rows of a local file, the stage that reads it)."""
    stage: dict[str, Any] = {"kind": "imported"}
    if hub_id := _hub(traces):
        stage["source"] = {"type": "hub", "id": hub_id}
        preset = next((p for p in PRESETS if hub_id in p.ids), None)
        known_as = f"preset {preset.name}" if preset else "told by its columns when it is read"
        said.append(f"traces: {hub_id}: {known_as}; revision open: factory pin writes it")
        if preset is not None:
            stage["preset"] = preset.name
            stage.update({"licence": preset.licence} if preset.licence else {})
        stage["form"] = dict(MARKS)
        return None, stage
    files = data_files(traces)
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: cannot be read: no such file")
    tables = [
        TableOfRows(f.name, lambda columns, f=f: read_rows(f, columns=columns)) for f in files
    ]
    read = survey(tables[0], ReadingSettings())
    mapping = read.reading.columns
    stage["source"] = {"type": "local", "path": str(traces)}
    stage["columns" if mapping.preset == "guessed" else "preset"] = (
        _short(mapping.columns.model_dump(mode="json", exclude_defaults=True))
        if mapping.preset == "guessed"
        else mapping.preset
    )
    stage["form"] = dict(MARKS)
    if mapping.preset == "worked":
        stage["empty_thoughts"] = "drop"
    said += [line.strip() for line in read.lines() if not line.strip().startswith("licence")]
    if mapping.licence:
        said.append(f"licence: {mapping.licence}, as the set's card says; of your own rows: yours")
        stage["licence"] = mapping.licence
    else:
        said.append("licence: not known: state it as licence before anything is published")
    return read, stage


def _short(columns: dict[str, Any]) -> dict[str, Any]:
    return {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in columns.items()}


def _student(student: str) -> dict[str, Any]:
    if student == "embedded":
        return {"type": "embedded"}
    if hub_id := _hub(student):
        return {"type": "hub", "id": hub_id}
    if not Path(student).expanduser().is_dir():
        raise RecipeError(f"--student {student}: no such folder; give one, hub:ID or embedded")
    return {"type": "local", "path": student}


def _turns(student: str) -> str:
    """The turns that fit a local model without a chat template; empty where none are needed."""
    if student == "embedded" or _hub(student):
        return ""
    from factory.text.templates import open_tokenizer

    tokenizer = open_tokenizer(Path(student).expanduser())
    return "" if tokenizer.chat_template else fitting(tokenizer.get_vocab())


def _held_out(file: str, is_stated: bool, said: list[str]) -> dict[str, Any] | None:
    """A source of questions that only measure; None where there are none with an answer."""
    if hub := _hub(file):
        return _hub_questions(hub, said) if is_stated else None
    path = data_files(file)[0]
    rows = [row.fields for _, row in zip(range(FIRST_ROWS), read_rows(path), strict=False)]
    fields = [row for row in rows if row is not None]
    columns = guessed_problem(fields)
    is_worked = {"question", "reasoning", "answer"} <= {n for row in fields for n in row}
    reference = columns.reference
    if not columns.question or reference is None or not _are_texts(fields, columns.question[0]):
        if is_stated:
            raise DataError(
                f"{file}: no columns of questions with answers; it has {list(fields[0])}"
            )
        return None
    count = max(1, min(HELD_OUT, len(fields) // 10)) if not is_stated else HELD_OUT
    if not is_stated and len(fields) < 20:
        return None
    source: dict[str, Any] = {"type": "local", "path": file}
    if not any("prompt" in row and "reference" in row for row in fields):
        source["columns"] = {"question": _short({"q": list(columns.question)})["q"],
                             "reference": reference}  # fmt: skip
    source |= {"train": 0, "held_out": None} if is_stated else {"train": 0, "held_out": count}
    if not is_worked:
        source["max_refused_share"] = 0.2
    said.append(f"held: {'all' if is_stated else count} questions of {path.name}, never trained on")
    return source


def _hub_questions(text: str, said: list[str]) -> dict[str, Any]:
    """A hub data set that is known, or whose columns are stated: ID:QUESTION:REFERENCE[:SPLIT]."""
    name, *stated = text.split(":")
    columns = QUESTIONS.get(name) if not stated else (*stated, "train")[:3]
    if columns is None or len(columns) != 3 or len(stated) > 3 or not all(columns):
        raise RecipeError(
            f"--questions hub:{text}: state its columns, and its split where that is not train: "
            f"hub:{name}:QUESTION:REFERENCE[:SPLIT]; known without are {', '.join(QUESTIONS)}"
        )
    question, reference, split = columns
    said.append(f"held: all of {name}, split {split}; revision open: factory pin writes it")
    return {
        "type": "hub", "id": name, "split": split, "question": question, "reference": reference,
        "train": 0, "held_out": None,
    }  # fmt: skip


def _of_answers(
    read: Survey | None, stage: dict[str, Any], said: list[str]
) -> dict[str, Any] | None:
    """A source of questions of traces in messages whose answers state a value; None of others."""
    if read is None:
        return None
    messages, rows = read.reading.columns.columns.messages, len(read.rows)
    if rows < 20 or messages is None or not read.reading.is_mathematics:
        fault = "no answers to measure by"
        if rows < 20:
            fault = f"{rows} rows are too few to hold some out"
        said.append(f"held: {fault}: give --questions FILE")
        return None
    count = min(HELD_OUT, rows // 10)
    said.append(
        f"held: {count} questions of {read.table.name} by their own answers, never trained on"
    )
    return {
        **stage["source"], "columns": {"messages": messages}, "train": 0, "held_out": count,
        "max_refused_share": 0.5,
    }  # fmt: skip


def _are_texts(fields: Sequence[dict[str, Any]], name: str) -> bool:
    return all(isinstance(row.get(name), str | None) for row in fields)


def _training(read: Survey | None, student: str, said: list[str]) -> dict[str, Any]:
    """Settings of sft by how many texts there are and how long they are."""
    weights = _weights(student)
    rate, steps = next(((r, n) for least, r, n in RATES if weights >= least))
    if read is None or len(read.rows) >= FIRST_ROWS:
        settings: dict[str, Any] = {"epochs": 3, "batch": 64}
        settings |= {"context": 2048} if student == "embedded" else {}
        return settings if rate == RATES[0][1] else {**settings, "learning_rate": rate}
    rows = max(1, len(read.rows))
    batch = max(1, min(8, rows))
    epochs = min(steps, max(3, -(-steps * batch // rows)))
    size = f"{weights / 1e6:,.1f} million weights, " if math.isfinite(weights) else ""
    said.append(
        f"student: {size}{rows} rows: batch {batch}, {epochs} epochs, learning rate {rate:g}"
    )
    return {"epochs": epochs, "batch": batch, "learning_rate": rate, "context": 2048}


def _weights(student: str) -> float:
    """How many parameters a student has; infinitely many where it is not here to be counted."""
    if student == "embedded":
        return SMOLLM2.parameters
    if _hub(student):
        return math.inf
    from factory.stages.model import parameters

    folder = Path(student).expanduser()
    check_folder(folder)
    return parameters(folder)
