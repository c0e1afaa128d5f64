"""Which column of a data set means what: as a recipe says, by a preset, or guessed and shown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeGuard

from pydantic import BeforeValidator, Field

from factory.core.errors import DataError
from factory.core.records import ProblemKind, Record


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One column, or several."""


class Columns(Record):
    """The column of each part of a row; `a.b` reaches into a record. What is not named here is not
    read."""

    messages: str | None = None
    """Turns: records with role and content, or with from and value."""
    question: Names = ()
    """Several are joined by a line break. Text, or the messages up to the answer."""
    completion: str | None = None
    """Thoughts and answer in one text, a list of such texts, or messages."""
    reasoning: str | None = None
    """The thoughts alone."""
    answer: str | None = None
    """What follows the thoughts, where they stand in a column of their own."""
    system: str | None = None
    """A system message."""
    reference: str | None = None
    """The right answer, by which answers are graded again."""
    flags: Names = ()
    """Whether each generation is published as right: one that any of these calls right is taken."""
    complete: str | None = None
    """Whether each generation is published as whole."""
    tests: str | None = None
    """Tests of a program: see docs/traces.md."""
    kind: str | None = None
    """The kind of problem, by `kinds`."""
    topic: str | None = None
    """What it is about: the beginning of its problem's id."""
    licence: str | None = None
    """Of the row."""

    def named(self) -> dict[str, tuple[str, ...]]:
        """Columns by role, of the roles that have one."""
        values = {role: getattr(self, role) for role in type(self).model_fields}
        return {
            role: value if isinstance(value, tuple) else (value,)
            for role, value in values.items()
            if value
        }


class KindsByColumn(Record):
    """Kinds of problems by what a column says."""

    column: str
    """Its name."""
    values: dict[str, ProblemKind] = Field(default_factory=dict)
    """Kind by value; a value that is a kind's name need not stand here, others are `open`."""


@dataclass(frozen=True)
class Preset:
    """A published data set."""

    name: str
    ids: tuple[str, ...]
    """Its names on the hub."""
    has: frozenset[str]
    """Columns by which a file of it is told."""
    columns: Columns
    kinds: ProblemKind | KindsByColumn | None = None
    """None: told from the answers."""
    licence: str = ""
    """As its card states it."""
    note: str = ""
    """What a reader should know of how it is read."""


def _columns(**names: Any) -> Columns:
    return Columns.model_validate(names)


DOMAINS = KindsByColumn(column="domain", values={"math": "math", "code": "code"})
PRESETS: tuple[Preset, ...] = (
    Preset(
        "openr1_math", ("open-r1/OpenR1-Math-220k",),
        frozenset({"problem", "answer", "generations", "is_reasoning_complete"}),
        _columns(
            question="problem", completion="generations", reference="answer",
            flags=["correctness_math_verify", "correctness_llama"],
            complete="is_reasoning_complete",
        ),
        "math", "apache-2.0", "generations, not messages; those published as wrong are left out",
    ),
    Preset(
        "openthoughts_metadata", ("open-thoughts/OpenThoughts-114k",),
        frozenset({"problem", "deepseek_reasoning", "deepseek_solution"}),
        _columns(
            question="problem", reasoning="deepseek_reasoning", answer="deepseek_solution",
            reference="ground_truth_solution", tests="test_cases", kind="domain",
        ),
        DOMAINS, "apache-2.0",
    ),
    Preset(
        "openthoughts3", ("open-thoughts/OpenThoughts3-1.2M",),
        frozenset({"conversations", "difficulty", "source", "domain"}),
        _columns(messages="conversations", kind="domain"), DOMAINS, "apache-2.0",
        "several answers a question are meant",
    ),
    Preset(
        "openthoughts", ("bespokelabs/Bespoke-Stratos-17k", "open-thoughts/OpenThoughts-114k"),
        frozenset({"conversations", "system"}),
        _columns(messages="conversations", system="system"), None, "apache-2.0",
    ),
    Preset(
        "mixture_of_thoughts", ("open-r1/Mixture-of-Thoughts",),
        frozenset({"messages", "num_tokens", "source"}), _columns(messages="messages"),
        note="no single licence: state it",
    ),
    Preset(
        "s1k_deepseek", ("simplescaling/s1K-1.1",),
        frozenset({"question", "deepseek_thinking_trajectory", "deepseek_attempt"}),
        _columns(
            question="question", reasoning="deepseek_thinking_trajectory",
            answer="deepseek_attempt", reference="solution", kind="cot_type",
        ),
        KindsByColumn(column="cot_type", values={"math": "math"}), "mit",
        "the thoughts of DeepSeek-R1; preset s1k_gemini takes Gemini's",
    ),
    Preset(
        "s1k_gemini", (), frozenset({"question", "gemini_thinking_trajectory", "gemini_attempt"}),
        _columns(
            question="question", reasoning="gemini_thinking_trajectory", answer="gemini_attempt",
            reference="solution", kind="cot_type",
        ),
        KindsByColumn(column="cot_type", values={"math": "math"}), "mit",
    ),
    Preset(
        "s1k", ("simplescaling/s1K",),
        frozenset({"question", "thinking_trajectories", "attempt"}),
        _columns(
            question="question", reasoning="thinking_trajectories", answer="attempt",
            reference="solution", kind="cot_type",
        ),
        KindsByColumn(column="cot_type", values={"math": "math"}), "apache-2.0",
    ),
    Preset(
        "openmathreasoning", ("nvidia/OpenMathReasoning",),
        frozenset({"problem", "generated_solution", "expected_answer"}),
        _columns(
            question="problem", completion="generated_solution", reference="expected_answer",
        ),
        "math", "cc-by-4.0",
    ),
    Preset(
        "codeforces_cots", ("open-r1/codeforces-cots",),
        frozenset({"prompt", "generation", "finish_reason"}),
        _columns(question="prompt", completion="generation"), "code", "cc-by-4.0",
    ),
    Preset(
        "worked", (), frozenset({"question", "reasoning", "answer"}),
        _columns(
            question="question", reasoning="reasoning", answer="answer", reference="reference",
            kind="kind", topic="topic", tests="tests",
        ),
        None, "", "an answer without a reference is its own",
    ),
)  # fmt: skip
"""The first whose columns a file has is taken for it."""

GUESSES: Mapping[str, tuple[str, ...]] = {
    "question": (
        "question", "problem", "prompt", "query", "instruction", "question_content", "input",
    ),
    "completion": ("completion", "response", "output", "generation", "generations", "completions"),
    "reasoning": (
        "reasoning", "reasoning_content", "thinking", "thoughts", "chain_of_thought", "cot",
        "rationale",
    ),
    "answer": ("answer", "solution", "final_answer", "response", "output"),
    "reference": (
        "reference", "ground_truth", "expected_answer", "gold", "final_answer", "answer", "target",
    ),
    "system": ("system", "system_prompt"),
    "tests": ("tests", "test_cases", "private_test_cases"),
    "kind": ("kind",),
    "topic": ("topic",),
    "licence": ("licence", "license"),
}  # fmt: skip
"""Names of columns by role, the likeliest first."""


@dataclass(frozen=True)
class ColumnMap:
    """How the rows of a file are read."""

    columns: Columns
    preset: str
    """Its name; `stated` or `guessed`."""
    kinds: KindsByColumn | str | None = None
    licence: str = ""
    note: str = ""
    why: Mapping[str, str] = field(default_factory=dict)
    """By role: what decided."""

    def top_level(self) -> list[str]:
        """The columns of the file that are read, those of a path cut to their first part too."""
        names = [name for role in self.columns.named().values() for name in role]
        if isinstance(self.kinds, KindsByColumn):
            names.append(self.kinds.column)
        return list(dict.fromkeys([*names, *(name.partition(".")[0] for name in names)]))


def field_of(fields: Mapping[str, Any], name: str) -> Any:
    """What stands in a column; None where there is none. `a.b` reaches into a record."""
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def text_of(value: Any) -> str | None:
    """A text, or a number as it is written; None for what is missing, and for all else."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | dict | list | tuple | bytes):
        return None
    return str(value)


def preset_named(name: str) -> Preset:
    """DataError lists those there are."""
    for preset in PRESETS:
        if preset.name == name:
            return preset
    names = ", ".join(preset.name for preset in PRESETS)
    raise DataError(f"preset {name!r}: there are auto, {names}")


def mapping_of(
    rows: Sequence[Mapping[str, Any]],
    where: str,
    *,
    columns: Columns | None = None,
    preset: str = "auto",
    hub_id: str = "",
) -> ColumnMap:
    """How to read a file whose first rows are these.

    What the recipe states counts, then the preset that it names, the set's hub id, a preset whose
    columns the file has, and at last the columns' names. DataError where a stated column is
    missing, or two could be meant: it prints the line to write.
    """
    present = list(dict.fromkeys(name for row in rows for name in row))
    if columns is not None and columns.named():
        _check_present(columns, rows, where, present)
        return ColumnMap(columns, "stated", why=dict.fromkeys(columns.named(), "stated"))
    chosen = None if preset == "auto" else preset_named(preset)
    if chosen is None:
        fitting = [p for p in PRESETS if p.has <= set(present)]
        by_id = [p for p in fitting if hub_id and hub_id in p.ids]
        chosen = next(iter([*by_id, *fitting]), None)
    if chosen is None:
        return _guessed(rows, where, present)
    if missing := sorted(chosen.has - set(present)):
        raise DataError(f"{where}: preset {chosen.name} needs {missing}; it has {present}")
    roles = {
        role: tuple(name for name in names if name.partition(".")[0] in present)
        for role, names in chosen.columns.named().items()
    }
    own = _columns(**{role: _plain(role, names) for role, names in roles.items() if names})
    why = dict.fromkeys(own.named(), f"preset {chosen.name}")
    return ColumnMap(own, chosen.name, chosen.kinds, chosen.licence, chosen.note, why)


def _plain(role: str, names: tuple[str, ...]) -> Any:
    return names if role in ("question", "flags") else names[0]


def _check_present(
    columns: Columns, rows: Sequence[Mapping[str, Any]], where: str, present: Sequence[str]
) -> None:
    missing = [
        f"{role}: {name}"
        for role, names in columns.named().items()
        for name in names
        if name not in present and not any(field_of(row, name) is not None for row in rows)
    ]
    if missing and rows:
        raise DataError(
            f"{where}: no column {' and no '.join(missing)}; there are {', '.join(present)}"
        )


def is_messages(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether it is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, dict) and ({"role", "content"} <= set(turn) or "value" in turn)
            for turn in value
        )
    )


def of_turn(turn: Mapping[str, Any], *names: str) -> Any:
    """What a turn has by the first of these names; None where it has none: a table has every name
    in every turn, null where another set's turns have it."""
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _guessed(rows: Sequence[Mapping[str, Any]], where: str, present: Sequence[str]) -> ColumnMap:
    turns = [name for name in present if any(is_messages(row.get(name)) for row in rows)]
    pairs = "prompt" in turns and "messages" not in turns
    if len(turns) > 1 and not pairs:
        lines = " or ".join(f"columns: {{messages: {name}}}" for name in turns)
        raise DataError(f"{where}: {' and '.join(turns)} hold messages; write {lines}")
    roles: dict[str, Any] = {}
    if turns and not pairs:
        roles["messages"] = turns[0]
    else:
        roles["question"] = _question(present)
        roles["completion"] = _name("completion", present, roles)
        roles["reasoning"] = _name("reasoning", present, roles)
        if roles["reasoning"]:
            roles["completion"] = None
            roles["answer"] = _name("answer", present, roles)
        elif not roles["completion"] and {"solution", "answer"} <= set(present):
            # A worked solution and what comes out: the thoughts and the answer.
            roles |= {"reasoning": "solution", "answer": "answer"}
    for role in ("reference", "system", "tests", "kind", "topic", "licence"):
        roles[role] = _name(role, present, roles)
    columns = _columns(**{role: name for role, name in roles.items() if name})
    named = columns.named()
    has_text = "messages" in named or (
        "question" in named and ("completion" in named or {"reasoning", "answer"} <= set(named))
    )
    if not has_text:
        raise DataError(
            f"{where}: its columns are {', '.join(present) or 'none'}; none are messages, or a "
            "question with a completion, or with reasoning and answer: say which as `columns`, "
            "e.g. columns: {question: ..., completion: ...}"
        )
    why = {role: f"a column named {' and '.join(names)}" for role, names in named.items()}
    if "messages" in named:
        why["messages"] = "the only column of messages"
    return ColumnMap(columns, "guessed", why=why)


def _question(present: Sequence[str]) -> tuple[str, ...]:
    if {"instruction", "input"} <= set(present):
        return ("instruction", "input")
    names = [name for name in GUESSES["question"] if name in present]
    return tuple(names[:1])


def _name(role: str, present: Sequence[str], roles: Mapping[str, Any]) -> str | None:
    taken = {n for v in roles.values() if v for n in (v if isinstance(v, tuple) else (v,))}
    return next((name for name in GUESSES[role] if name in present and name not in taken), None)


def as_line(columns: Columns) -> str:
    """The `columns:` line of a recipe."""
    named = columns.model_dump(mode="json", exclude_defaults=True)
    plain = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in named.items()}
    pairs = ", ".join(
        f"{role}: {json.dumps(v) if isinstance(v, list) else v}" for role, v in plain.items()
    )
    return f"columns: {{{pairs}}}"


def guessed_problem(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The columns of a file of problems by their names; those that are not there stay out."""
    present = list(dict.fromkeys(name for row in rows for name in row))
    roles: dict[str, Any] = {"question": _question(present)}
    for role in ("reference", "tests", "kind", "licence"):
        roles[role] = _name(role, present, roles)
    return _columns(**{role: name for role, name in roles.items() if name})
