"""Each score by difficulty, where a benchmark's problems tell theirs."""

from collections.abc import Sequence

from factory.evaluation.strata import difficulty, strata
from factory.report.asked import AllAsked
from factory.report.records import Evaluation, Strata
from factory.report.scorecard import MODES, AllAnswers, benchmarks


def all_strata(rows: Sequence[Evaluation], answers: AllAnswers, asked: AllAsked) -> list[Strata]:
    """One for each evaluation, benchmark and mode, benchmark by benchmark in stage order."""
    found = []
    for benchmark in benchmarks(rows):
        for row in rows:
            known = asked.get((row.label, benchmark))
            cut = None if known is None else difficulty(list(known.problems.values()))
            for mode in MODES:
                given = answers[row.label].get((benchmark, mode), {})
                if cut is not None and given:
                    parts = tuple(strata(given, cut))
                    found.append(
                        Strata(label=row.label, benchmark=benchmark, mode=mode, parts=parts)
                    )
    return found
