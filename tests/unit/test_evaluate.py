"""The evaluate stage's config, our task YAML, and what is made of foreign settings."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from factory.core.errors import DataError, RecipeError
from factory.core.records import Problem
from factory.evaluation.documents import (
    document_problem,
    given_documents,
    grade_document,
    problem_documents,
)
from factory.grading import grade, grade_lenient
from factory.stages.evaluate import EVALS, STAGE, EvaluateConfig, task_files

PROBLEM = Problem(
    id="a", prompt="1 + 1?", reference="2", kind="exact", source="sums", data={"deep": [1, {}]}
)


def config(*benchmarks: dict[str, object], **fields: object) -> EvaluateConfig:
    document = {"kind": "evaluate", "model": "base", "benchmarks": benchmarks, **fields}
    return EvaluateConfig.model_validate(document)


def test_the_default_protocol_is_the_papers() -> None:
    plain = config({"name": "sums", "problems": "data"})
    assert (plain.sampling.temperature, plain.sampling.top_p) == (0.6, 0.95)
    assert (plain.samples, plain.greedy, plain.prompt.style) == (4, True, "chat")
    assert STAGE.produces == "scores"


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ({"name": "x"}, "give either problems or task, found neither"),
        ({"name": "x", "problems": "d", "task": "gsm8k"}, "found both"),
        ({"name": "x", "task": "gsm8k", "source": "gcd"}, "source selects among problems"),
        ({"name": "x", "problems": "d", "raw": True}, "raw is for registry tasks"),
        ({"name": "a.b", "problems": "d"}, "name"),
        ({"name": "x", "task": "../secret"}, "task"),
        ({"name": "x", "problems": "d", "samples": 0}, "samples is 0 and greedy is off"),
    ],
)
def test_a_benchmark_that_cannot_be_meant_is_refused(
    benchmark: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        config(benchmark, greedy=False)


def test_two_benchmarks_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="equal name: x"):
        config({"name": "x", "problems": "a"}, {"name": "x", "problems": "b"})


def test_no_benchmarks_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        config()


def test_the_yaml_behind_a_benchmark_is_part_of_its_fingerprint() -> None:
    named = config({"name": "a", "task": "gsm8k_100"}, {"name": "b", "task": "not_ours"})
    assert [path.name for path in task_files(named)] == ["factory_problems.yaml", "gsm8k_100.yaml"]
    assert STAGE.external_files is task_files


def test_every_yaml_of_ours_is_named_after_its_task_and_versioned() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    paths = sorted(path for path in EVALS.glob("*.yaml") if path.stem != "published")
    assert len(paths) >= 2
    for path in paths:
        task = yaml.load(path.read_text(encoding="utf-8"), Loader)
        assert task["task"] == path.stem
        assert isinstance(task["metadata"]["version"], int)
        assert task["metadata"]["graded_by"] == "factory"


def test_problems_survive_the_way_through_lm_eval_documents() -> None:
    (document,) = problem_documents([PROBLEM])["test"]
    assert document_problem(document) == PROBLEM
    with pytest.raises(DataError, match="no problems are left"):
        problem_documents([])


def test_stock_lm_eval_grades_a_document_as_the_factory_does() -> None:
    texts = ["<think> a </think> <answer> 2 </answer>", "It is 2", "It is 3", ""]
    (document,) = problem_documents([PROBLEM])["test"]
    assert grade_document(document, [texts]) == {"pass@1": 1 / 4, "pass@1_lenient": 2 / 4}
    assert sum(grade(PROBLEM, text).is_correct for text in texts) == 1
    assert sum(grade_lenient(PROBLEM, text).is_correct for text in texts) == 2


def test_the_template_cannot_be_asked_without_problems() -> None:
    with pytest.raises(RecipeError, match="name a problems artifact"):
        given_documents(version=1)


def test_foreign_generation_settings_become_ours_or_are_refused() -> None:
    from factory.evaluation.registry_tasks import foreign_sampling

    greedy = foreign_sampling({"until": "\n", "do_sample": False, "temperature": 0.0}, 50)
    assert (greedy.temperature, greedy.stop, greedy.max_new_tokens) == (0.0, ("\n",), 50)
    samples = foreign_sampling({"do_sample": True, "top_p": 0.9, "max_gen_toks": 8}, 50)
    assert (samples.temperature, samples.top_p, samples.max_new_tokens) == (1.0, 0.9, 8)
    with pytest.raises(RecipeError, match="num_beams: not supported"):
        foreign_sampling({"num_beams": 4}, 50)


def test_the_folder_of_task_yaml_is_the_repositorys() -> None:
    assert Path(__file__).parents[2] / "evals" == EVALS
