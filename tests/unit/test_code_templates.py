"""Function problems from templates: their references pass, others fail, splits hold."""

import pytest
from namespaces import needs_namespaces

from factory.grading.code import grade_code
from factory.problems.code_templates import TEMPLATES, CodeTemplatesSource, make_problem, supply
from factory.problems.references import reference_verdict
from factory.problems.splits import split


@needs_namespaces
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_templates_reference_passes_and_a_constant_does_not(template) -> None:
    for number in (template.low, template.high):
        problem = make_problem(template, number)
        assert reference_verdict(problem).is_correct
    assert not grade_code(problem, f"def f({template.parameter}): return 0").is_correct


def test_a_problem_depends_on_its_template_and_number_only() -> None:
    assert make_problem(TEMPLATES[0], 3) == make_problem(TEMPLATES[0], 3)
    assert make_problem(TEMPLATES[0], 3).data != make_problem(TEMPLATES[0], 4).data


def test_no_question_is_on_both_sides() -> None:
    source = CodeTemplatesSource(type="code_templates", train=100, held_out=30)
    splits = split([supply(source, 1)])
    assert (len(splits.train), len(splits.held_out)) == (100, 30)
    assert not {p.prompt for p in splits.train} & {p.prompt for p in splits.held_out}
