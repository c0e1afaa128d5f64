"""Graders against suites of adversarial answers: false accepts and false rejects by category."""

import json
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.core.jsonl import read_records
from factory.core.records import Outcome, Problem, Record
from factory.evaluation.statistics import wilson
from factory.grading import GradeItem, GradingPool

SUITES = Path(__file__).parents[1] / "grading" / "suites"
SuiteKind = Literal["math", "code"]
FILES: dict[SuiteKind, str] = {"math": "math", "code": "programs"}
BASELINE_SECONDS = 10.0
START_SECONDS = 120.0


class Case(Record):
    """One completion and the verdict that a careful human examiner would give."""

    id: str
    category: str
    kind: Literal["math", "code"]
    reference: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    """Of programs: their tests, as in Problem.data."""
    prompt: str = ""
    response: str
    expected: Outcome

    @property
    def item(self) -> GradeItem:
        problem = Problem(
            id=self.id,
            prompt=self.prompt,
            reference=self.reference,
            kind=self.kind,
            source="suite",
            data=self.data,
        )
        return GradeItem(problem, self.response)


class Row(Record):
    """Errors of one grader in one category, with Wilson's intervals for both rates."""

    grader: str
    category: str
    false_accepts: int
    should_reject: int
    false_rejects: int
    should_accept: int

    @property
    def accept_interval(self) -> tuple[float, float] | None:
        """Of the rate of false accepts; None where nothing is to be rejected."""
        return _interval(self.false_accepts, self.should_reject)

    @property
    def reject_interval(self) -> tuple[float, float] | None:
        return _interval(self.false_rejects, self.should_accept)


def _interval(errors: int, n: int) -> tuple[float, float] | None:
    return wilson(errors / n, n) if n else None


def load_cases(kind: SuiteKind) -> list[Case]:
    """The shipped cases of a kind, in order."""
    return list(read_records(SUITES / f"{FILES[kind]}.jsonl", Case))


def audit(kinds: Sequence[SuiteKind]) -> tuple[list[Row], list[str]]:
    """Rows of ours and, for maths, of the baselines; and the ids that ours errs on."""
    rows: list[Row] = []
    wrong: list[str] = []
    for kind in kinds:
        cases = load_cases(kind)
        outcomes = our_outcomes(cases, processes=2)
        wrong += [c.id for c, o in zip(cases, outcomes, strict=True) if o != c.expected]
        rows += tally(f"factory, {kind}", cases, [outcome == "correct" for outcome in outcomes])
        if kind == "math":
            for name in BASELINES:
                rows += tally(name, cases, baseline_accepts(name, cases))
    return rows, wrong


def our_outcomes(cases: Sequence[Case], *, processes: int = 1) -> list[Outcome]:
    """What `grade` decides, one outcome a case."""
    with GradingPool(processes) as pool:
        return [verdict.outcome for verdict in pool.grade([case.item for case in cases])]


def our_accepts(cases: Sequence[Case], *, processes: int = 2) -> list[bool]:
    """Whether ours accepts each case."""
    return [outcome == "correct" for outcome in our_outcomes(cases, processes=processes)]


def tally(grader: str, cases: Sequence[Case], accepted: Sequence[bool]) -> list[Row]:
    """One row a category in order of appearance, and a last one named "all"."""
    pairs = list(zip(cases, accepted, strict=True))
    rows: list[Row] = []
    for category in [*dict.fromkeys(case.category for case in cases), "all"]:
        chosen = [(c.expected == "correct", a) for c, a in pairs if category in (c.category, "all")]
        rows.append(
            Row(
                grader=grader,
                category=category,
                false_accepts=sum(a and not right for right, a in chosen),
                should_reject=sum(not right for right, _ in chosen),
                false_rejects=sum(right and not a for right, a in chosen),
                should_accept=sum(right for right, _ in chosen),
            )
        )
    return rows


def baseline_accepts(name: str, cases: Sequence[Case]) -> list[bool]:
    """Whether a baseline accepts each case; one that hangs, dies or raises does not accept."""
    context = multiprocessing.get_context("spawn")
    accepted: list[bool] = []
    while len(accepted) < len(cases):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, name), daemon=True)
        process.start()
        theirs.close()
        try:
            if not ours.poll(START_SECONDS) or ours.recv() != "ready":
                raise OSError(f"the baseline {name} did not start")
            for case in cases[len(accepted) :]:
                ours.send(json.dumps([case.reference, case.response]))
                if not ours.poll(BASELINE_SECONDS):
                    accepted.append(False)
                    break
                accepted.append(bool(ours.recv()))
        except EOFError:
            accepted.append(False)
        finally:
            process.kill()
            process.join()
            ours.close()
    return accepted


def _serve(connection: Connection, name: str) -> None:
    # It logs every answer that it gives up on, thousands of characters long, hostile ones too.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    judge = BASELINES[name]
    judge("1", "$1$")
    connection.send("ready")
    while True:
        reference, response = json.loads(connection.recv())
        try:
            connection.send(judge(reference, response))
        # A baseline that raises gives no reward, whatever it raises.
        except Exception:
            connection.send(False)


def _math_verify(reference: str, response: str) -> bool:
    import math_verify  # pyright: ignore[reportMissingTypeStubs] - it has none

    library: Any = math_verify
    return bool(library.verify(library.parse(reference), library.parse(response)))


def _trl(reference: str, response: str) -> bool:
    from trl.rewards import accuracy_rewards

    library: Any = accuracy_rewards
    messages = [{"role": "assistant", "content": response}]
    return library.accuracy_reward([messages], [reference]) == [1.0]


def _wrapped(judge: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    return lambda reference, response: judge(f"${reference}$", _in_dollars(response))


def _in_dollars(response: str) -> str:
    """The response with a bare answer block put between dollars."""
    head, opening, rest = response.rpartition("<answer>")
    answer, closing, tail = rest.partition("</answer>")
    if not opening or not closing or "$" in answer or "boxed" in answer:
        return response
    return f"{head}{opening}${answer.strip()}${closing}{tail}"


BASELINES: dict[str, Callable[[str, str], bool]] = {
    "math-verify": _math_verify,
    "math-verify, in dollars": _wrapped(_math_verify),
    "TRL accuracy": _trl,
    "TRL accuracy, in dollars": _wrapped(_trl),
}
"""Both want LaTeX between dollars, so each is asked with the texts as given and wrapped."""
