"""A grader of your own: problems whose right answers are all numbers of an interval.

    factory build recipe.yaml --plugin examples/interval.py

A row of a local problems file names it by its kind:

    {"prompt": "Name a number from 1 to 3.", "reference": "2", "kind": "interval",
     "data": {"low": 1, "high": 3}}
"""

from factory.plugins import Problem, Verdict, correct, grader, plain_number, wrong


@grader("interval", version=1)
def interval(problem: Problem, answer: str) -> Verdict:
    """Correct iff the answer is a number from `low` to `high`; without them it is ungradable."""
    low, high = problem.data["low"], problem.data["high"]
    number = plain_number(answer)
    if number is None:
        return wrong(answer, "not a number")
    return correct(answer) if low <= number <= high else wrong(answer, f"not in {low}..{high}")
