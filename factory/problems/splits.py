"""Train and held-out problems from several supplies, without one question in both.

Questions are compared by their normalised text, but within a split of an exact supply. Held-out
problems of every supply are taken first, so whatever else asks the same is dropped from training,
never the other way round.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from factory.core.errors import DataError
from factory.core.records import Problem

PATIENCE = 100
"""Repeated questions in a row, beyond five times those found, after which no new one is expected.

Of N equally likely questions the last one is missed with probability below exp(-5).
"""


@dataclass
class Supply:
    """A stream of problems and how many of them each split asks for (None: all there are)."""

    label: str
    problems: Iterator[Problem]
    held_out: int | None
    train: int | None
    is_endless: bool = False
    """Whether the stream repeats questions instead of ending."""
    is_exact: bool = False
    """Whether case and the form of a character tell questions of a split apart (2² and 22)."""
    distinct: int = 0
    duplicates: int = 0
    alike: list[tuple[str, str]] = field(default_factory=list)
    """Duplicates that are not the same to the letter, each with the question it was taken for."""


@dataclass
class Splits:
    train: list[Problem] = field(default_factory=list)
    held_out: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """`<label>.train`, `<label>.held_out` and `<label>.duplicates`."""


def question_key(question: str) -> str:
    """What makes two questions the same: NFKC, case and white space aside."""
    folded = " ".join(unicodedata.normalize("NFKC", question).casefold().split())
    return hashlib.sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()


def as_written(question: str) -> str:
    """The question with its case and its characters, white space and canonical forms aside."""
    return " ".join(unicodedata.normalize("NFC", question).split())


def own_key(question: str) -> str:
    """A key for a question that only case or the forms of characters part from an earlier one."""
    exact = as_written(question)
    for text in (exact, f"{exact}\0"):  # the first is the common key where nothing can be folded
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if key != question_key(question):
            break
    return key


def problem_id(label: str, question: str) -> str:
    """An id that depends on the question alone: the same one in every recipe."""
    return f"{label}-{question_key(question)[:12]}"


def split(
    supplies: Sequence[Supply], *, on_problem: Callable[[int], None] = lambda done: None
) -> Splits:
    """Fill the held-out split from every supply, then the train split.

    DataError if a supply holds fewer different questions than asked, or two problems share an id.
    """
    splits, seen = Splits(), dict[str, str]()
    for name, target in (("held_out", splits.held_out), ("train", splits.train)):
        held_out = frozenset(seen)  # nothing like one of these is learned from
        for supply in supplies:
            requested = getattr(supply, name)
            for problem in _take(supply, requested, seen, name, held_out=held_out):
                target.append(problem)
                splits.counts[f"{supply.label}.{name}"] += 1
                on_problem(len(splits.held_out) + len(splits.train))
    for supply in supplies:
        splits.counts[f"{supply.label}.duplicates"] += supply.duplicates
    ids = Counter(problem.id for problem in (*splits.held_out, *splits.train))
    repeated = sorted(name for name, count in ids.items() if count > 1)
    if repeated:
        raise DataError(
            f"problems: {len(repeated)} ids occur twice with different questions, "
            f"e.g. {repeated[0]!r}; give each problem an id of its own"
        )
    return splits


def _take(
    supply: Supply, requested: int | None, seen: dict[str, str], name: str, *,
    held_out: Collection[str],
) -> Iterator[Problem]:  # fmt: skip
    """New problems of a supply; `seen` maps the key of every earlier question to it."""
    taken = repeats = 0
    while requested is None or taken < requested:
        if supply.is_endless and repeats > PATIENCE + 5 * supply.distinct:
            break
        problem = next(supply.problems, None)
        if problem is None:
            break
        key, exact = question_key(problem.prompt), as_written(problem.prompt)
        if (
            supply.is_exact
            and key in seen
            and key not in held_out
            and exact != as_written(seen[key])
        ):
            if problem.id == problem_id(supply.label, problem.prompt):
                own = own_key(problem.prompt)[:12]
                problem = problem.model_copy(update={"id": f"{supply.label}-{own}"})
            key = exact
        if key in seen:
            repeats += 1
            supply.duplicates += 1
            if exact != as_written(seen[key]):
                supply.alike.append((problem.prompt, seen[key]))
            continue
        seen[key] = problem.prompt
        repeats = 0
        taken += 1
        supply.distinct += 1
        yield problem
    if requested is not None and taken < requested:
        raise DataError(
            f"problems: {supply.label}: found {taken} of {requested} {name} questions "
            f"({supply.distinct} different ones in all, {supply.duplicates} repeated); "
            "ask for fewer or widen its settings"
        )
