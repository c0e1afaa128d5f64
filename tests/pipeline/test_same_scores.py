"""The same texts through our graders and through lm-eval's own scorers of GSM8K and AIME.

Where both have one rule they agree; each case where they do not names a row of the table in
docs/evaluation.md that says why. IFEval's is in tests/unit/test_instructions.py.
"""

from pathlib import Path
from typing import Any

import pytest

from factory.core.records import FinishReason, Problem
from factory.evaluation.scores import both_readings
from factory.grading import grade_item
from factory.text.chat import OutputForm, PromptConfig

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
NUMBERS = "equal numbers are equal however they are written"
R1 = PromptConfig(
    style="chat", prefill="<think>\n", form=OutputForm(opening="<think>", closing="</think>")
)


def grades(reference: str, text: str, prompt: PromptConfig, reason: FinishReason) -> list[bool]:
    """Whether it is right, strictly and leniently."""
    problem = Problem(id="p", prompt="q", reference=reference, kind="math", source="t")
    return [grade_item(item).is_correct for item in both_readings(problem, text, reason, prompt)]


GSM8K: list[tuple[str, str, bool, str]] = [
    # (text, reference, right by our lenient reading, why lm-eval's flexible-extract differs)
    ("The answer is 18", "18", True, ""),
    ("The answer is 18", "19", False, ""),
    ("That makes 18 dollars.", "18", True, ""),
    ("It costs $1,234.", "1234", True, ""),
    ("9 + 9 = 18\n#### 18", "18", True, ""),
    ("18, or rather 19", "18", False, ""),
    ("18, or rather 19", "19", True, ""),
    ("The change is -3", "-3", True, ""),
    ("The change is -3", "3", False, ""),
    ("<think> 9 + 9 </think> <answer> 18 </answer>", "18", True, ""),
    ("I do not know.", "18", False, ""),
    ("", "18", False, ""),
    ("It is 18.0", "18", True, NUMBERS),
    ("It is 36/2", "18", True, "a fraction is one number"),
    ("It is 36/2", "2", False, "a fraction is one number"),
    ("Left are 10-7", "7", True, "a minus between numbers is no sign"),
    ("It is 18 ...", "18", True, "dots are no number"),
    ("Both 3,4", "4", True, "a comma without three digits after it parts numbers"),
]


@pytest.fixture(scope="module")
def gsm8k() -> Any:
    """lm-eval's task GSM8K, its filters and metric, over our cases."""
    import lm_eval.tasks
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    path = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"
    rows = [{"question": text, "answer": f"#### {answer}"} for text, answer, *_ in GSM8K]
    documents = Dataset.from_list(rows)
    config = load_yaml(path, resolve_func=True)
    config |= {
        "custom_dataset": lambda **_: {"train": documents, "test": documents},
        "num_fewshot": 0,
    }
    for name in ("dataset_path", "dataset_name"):
        config.pop(name)
    return ConfigurableTask(config=config)


def test_gsm8k_scores_as_in_lm_eval_but_where_it_is_explained(gsm8k: Any) -> None:
    gsm8k.build_all_requests(rank=0, world_size=1)
    requests = sorted(gsm8k.instances, key=lambda request: request.doc_id)
    for request, (text, *_) in zip(requests, GSM8K, strict=True):
        request.resps = [text]
    gsm8k.apply_filters()
    for request, (text, reference, expected, why) in zip(requests, GSM8K, strict=True):
        answer = request.filtered_resps["flexible-extract"]
        theirs = gsm8k.process_results(request.doc, [answer])["exact_match"] == 1
        _, ours = grades(reference, text, PromptConfig(), "stop")
        assert ours == expected, text
        assert (theirs == ours) == (not why), (text, theirs, why)


AIME: list[tuple[str, str, FinishReason, bool, str]] = [
    # (text after the opened thoughts, reference, finish reason, right by ours, why theirs differs)
    ("so\n</think> It is \\boxed{204}.", "204", "stop", True, ""),
    ("so\n</think> It is \\boxed{205}.", "204", "stop", False, ""),
    ("205\n</think> It is $\\boxed{204}$.", "204", "stop", True, ""),
    ("\\boxed{205}\n</think> It is \\boxed{204}.", "204", "stop", True, ""),
    ("still thinking", "204", "length", False, ""),
    ("so\n</think> It is \\boxed{070}.", "70", "stop", True, NUMBERS),
    ("so\n</think> 204", "204", "stop", True, "an answer needs no box"),
    ("\\boxed{204}\n</think> It is 205.", "204", "stop", False,
     "boxes in the thoughts do not count"),
    ("so\n</think> \\boxed{205} or \\boxed{204}", "204", "stop", False,
     "several different boxes are no answer"),
    ("so\n</think> It is \\boxed{204}", "204", "length", False, "a text cut off is no answer"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reference", "reason", "expected", "why"), AIME)
def test_aime_scores_as_in_lm_eval_but_where_it_is_explained(
    text: str, reference: str, reason: FinishReason, expected: bool, why: str
) -> None:
    from lm_eval.tasks.aime.utils import process_results

    theirs = process_results({"answer": reference}, [text])["exact_match"] == 1
    ours, _ = grades(reference, text, R1, reason)
    assert ours == expected
    assert (theirs == ours) == (not why)


def test_every_difference_is_explained_in_the_documentation() -> None:
    document = DOCUMENT.read_text("utf-8")
    for why in {case[-1] for case in [*GSM8K, *AIME]} - {""}:
        assert f"\n| {why} |" in document, why
