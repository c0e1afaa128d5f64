"""The grading worker process: one JSON item a line in, one JSON verdict a line out."""

import faulthandler
import json
import os
import resource
import sys

from pydantic_core import PydanticSerializationError

from factory.core.plugin_files import PluginFile, load_same
from factory.core.records import Problem, Verdict
from factory.grading.bounded import TooSlowError, bounded, too_slow
from factory.grading.grade import GradeItem, grade_item
from factory.grading.grader import deciding
from factory.grading.procedural import prepare
from factory.text.chat import OutputForm

MEMORY_BYTES = 4 * 2**30
"""Address space; a giant integer then raises MemoryError here instead of taking the machine."""


def main(deadline_seconds: float, plugins: str, *, is_lean: bool = False) -> None:
    """Answer until standard input closes; a lean one imports what mathematics needs when asked."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Only verdicts may reach the parent: whatever a library prints goes nowhere.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not is_lean:
        import math_verify
        import reasoning_gym
        import sympy

        del math_verify, reasoning_gym, sympy
    load_same([PluginFile.model_validate(row) for row in json.loads(plugins)])
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        # Orphaned while stuck, this process ends itself: the parent's clock is the shorter one.
        item = _item(line)
        patience = 3 * (deadline_seconds + item.seconds) + 5
        faulthandler.dump_traceback_later(patience, exit=True)
        out.write(_line(_answer(item)) + "\n")
        out.flush()
        faulthandler.cancel_dump_traceback_later()


def _item(line: str) -> GradeItem:
    row = json.loads(line)
    form = row.pop("form")
    problem = Problem.model_validate(row.pop("problem"))
    return GradeItem(problem, **row, form=form and OutputForm.model_validate(form))


def _answer(item: GradeItem) -> Verdict:
    try:
        kind = deciding(item.problem.kind, item.problem.data)
        if kind == "procedural":
            prepare(item.problem)
        elif kind != "math":
            return grade_item(item)
        with bounded():
            return grade_item(item)
    except TooSlowError:
        return too_slow()
    except (MemoryError, RecursionError) as error:
        explanation = f"grading ran out of memory or stack ({type(error).__name__})"
        return Verdict(outcome="ungradable", answer=None, explanation=explanation)


def _line(verdict: Verdict) -> str:
    """The verdict as JSON; halves of surrogate pairs, which no file can hold, written out."""
    try:
        return verdict.model_dump_json()
    except PydanticSerializationError:
        texts = {"answer": verdict.answer, "explanation": verdict.explanation}
        clean = {
            name: text and text.encode("utf-8", "backslashreplace").decode()
            for name, text in texts.items()
        }
        return verdict.model_copy(update=clean).model_dump_json()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], is_lean="lean" in sys.argv[3:])
