"""Problems as lm-eval documents, and the functions that the task YAML in `evals/` names.

The YAML are whole lm-eval tasks: stock lm-eval runs them too (`lm_eval --include_path evals`), with
its own prompts. The factory runs them with its prompt protocol and one grading pass over all
completions; the scores of the same completions are the same.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from factory.core.errors import DataError, RecipeError
from factory.core.records import Problem, Verdict

FIELD = "factory_problem"
"""The document column that holds the whole problem as JSON; documents without it are foreign."""


def problem_documents(problems: Iterable[Problem]) -> dict[str, Any]:
    """The dataset that lm-eval sees: split `test`, one row a problem, held in memory."""
    from factory.problems.hub import held_table

    rows = [
        {
            "id": problem.id,
            "prompt": problem.prompt,
            "reference": problem.reference,
            "source": problem.source,
            FIELD: problem.model_dump_json(),
        }
        for problem in problems
    ]
    if not rows:
        raise DataError("benchmark: no problems are left; check its limit and source")
    return {"test": held_table(rows)}


def document_problem(document: dict[str, Any]) -> Problem:
    return Problem.model_validate_json(document[FIELD])


def bundled_documents(*, bundle: str, **_: Any) -> dict[str, Any]:
    """Documents of a benchmark that ships in an installed package (YAML `custom_dataset`).

    lm-eval passes the task's metadata along, which is of no use here.
    """
    from factory.problems.benchmark import benchmark_problems

    return problem_documents(benchmark_problems(bundle))


def given_documents(**_: Any) -> dict[str, Any]:
    """Stands in the template YAML, whose documents the evaluate stage puts in at run time."""
    raise RecipeError(
        "factory_problems is a template: name a problems artifact in the recipe "
        "(`problems: <stage>`) instead of `task: factory_problems`"
    )


def grade_document(document: dict[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores of one document from the texts of its samples (YAML `process_results`)."""
    from factory.grading import grade, grade_lenient

    problem = document_problem(document)
    (texts,) = results
    return pass_rates([(grade(problem, text), grade_lenient(problem, text)) for text in texts])


def pass_rates(verdicts: Sequence[tuple[Verdict, Verdict]]) -> dict[str, float]:
    """pass@1 of one document: the share of its samples that are right, strictly and leniently."""
    strict, lenient = zip(*verdicts, strict=True)
    return {
        "pass@1": sum(verdict.is_correct for verdict in strict) / len(verdicts),
        "pass@1_lenient": sum(verdict.is_correct for verdict in lenient) / len(verdicts),
    }
