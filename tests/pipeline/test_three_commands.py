"""From `init --traces F --student D` to a private folder: what a user types in an empty folder.

Traces in every published shape, students in the shapes of five families. The suite runs two of
them; FACTORY_LONG_TESTS=1 runs each shape of traces and each family, and the embedded model.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from warm import WarmProgram

from factory.models.tiny import byte_tokenizer, save_tiny_model

SUMS = (
    ("What is 3 + 4?", "3 and 4 are 7.", "7"),
    ("What is 9 + 5?", "9 and 5 are 14.", "14"),
    ("What is 20 + 6?", "Adding, 26.", "26"),
    ("Solve x + 2 = 5 for x.", "Take 2 away on both sides: x = 3.", "3"),
)
FAMILIES = ("qwen2", "qwen3", "llama", "gemma2", "phi3")
MACHINE = "{device: cpu, dtype: float32, matmul: float32, threads: 1, engine: transformers}\n"


def think(thoughts: str, answer: str) -> str:
    return f"<think>\n{thoughts}\n</think>\n\nThe result is $\\boxed{{{answer}}}$."


def stratos(thoughts: str, answer: str) -> str:
    return (
        f"<|begin_of_thought|>\n\n{thoughts}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n"
        f"$\\boxed{{{answer}}}$\n\n<|end_of_solution|>"
    )


def chat(*turns: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": text, **more} for role, text, more in turns]


def said(asker: str, writer: str, question: str, text: str) -> list[dict[str, str]]:
    return [{"from": asker, "value": question}, {"from": writer, "value": text}]


SHAPES: dict[str, Any] = {
    "openr1_math": lambda q, t, a: {
        "problem": q, "solution": f"$\\boxed{{{a}}}$", "answer": a, "source": "own", "uuid": q,
        "generations": [think(t, a), think("A guess.", "1")],
        "is_reasoning_complete": [True, True], "correctness_math_verify": [True, False],
    },
    "openthoughts3": lambda q, t, a: {
        "difficulty": None, "source": "own", "domain": "math",
        "conversations": said("human", "gpt", q, think(t, a)),
    },
    "stratos": lambda q, t, a: {
        "system": "Think within marks.",
        "conversations": said("user", "assistant", q, stratos(t, a)),
    },
    "mixture_of_thoughts": lambda q, t, a: {
        "messages": chat(("user", q, {}), ("assistant", think(t, a), {})), "num_tokens": 9,
        "source": "own",
    },
    "s1k": lambda q, t, a: {
        "question": q, "solution": a, "cot_type": "math", "source_type": "own", "metadata": "{}",
        "deepseek_thinking_trajectory": t, "deepseek_attempt": f"$\\boxed{{{a}}}$",
    },
    "reasoning_content": lambda q, t, a: {
        "messages": chat(("user", q, {}), ("assistant", a, {"reasoning_content": t})),
    },
    "prompt_completion": lambda q, t, a: {"prompt": q, "completion": think(t, a)},
    "prompt_completion_chat": lambda q, t, a: {
        "prompt": chat(("user", q, {})),
        "completion": chat(("assistant", think(t, a).removeprefix("<think>\n"), {})),
    },
    "alpaca": lambda q, t, a: {"instruction": q, "input": "", "output": think(t, a)},
    "worked": lambda q, t, a: {"question": q, "reasoning": t, "answer": a},
}  # fmt: skip
"""Rows of each published shape that say the same."""
CELLS = [("openr1_math", "gemma2"), ("stratos", "no template")]
if os.environ.get("FACTORY_LONG_TESTS"):
    CELLS = [
        *((shape, FAMILIES[number % len(FAMILIES)]) for number, shape in enumerate(SHAPES)),
        *(("mixture_of_thoughts", family) for family in FAMILIES),
        ("stratos", "no template"), ("openr1_math", "embedded"), ("worked", "embedded"),
    ]  # fmt: skip


def student(folder: Path, family: str) -> str:
    """A tiny random model in the shape of a family; `no template`: a base model's folder."""
    if family == "embedded":
        return family
    save_tiny_model(folder, "phi3" if family == "no template" else family)  # pyright: ignore
    if family == "no template":
        tokenizer = byte_tokenizer("phi3")
        tokenizer.chat_template = None
        (folder / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(folder)
    return str(folder)


class User:
    """Somebody in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ran = 0

    def types(self, *arguments: str, status: int = 0) -> str:
        """What a command prints, which must end with this status."""
        self._ran += 1
        output = self.folder / f"printed-{self._ran}.txt"
        program = WarmProgram(
            ["factory", *arguments], output=output, errors=output, settings={"COLUMNS": "200"},
            folder=self.folder,
        )  # fmt: skip
        ended = program.wait(1800)
        text = output.read_text(encoding="utf-8")
        assert ended == status, text
        return text


@pytest.mark.parametrize(("shape", "family"), CELLS)
def test_three_commands_make_a_student_that_thinks_and_stops(
    tmp_path: Path, shape: str, family: str
) -> None:
    lines = [json.dumps(SHAPES[shape](*row)) + "\n" for row in SUMS]
    (tmp_path / "traces.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "machine.yaml").write_text(MACHINE, encoding="utf-8")
    user, on = User(tmp_path), ("--machine", "machine.yaml")
    own = student(tmp_path / "model", family)
    user.types("init", "mine", "--traces", "traces.jsonl", "--student", own)
    printed = user.types("build", "mine.yaml", "--plain", *on)
    assert "has not learned to stop" not in printed
    page = tmp_path / "artifacts" / "reports" / "mine" / "report.html"
    assert "student" in page.read_text(encoding="utf-8")
    user.types("publish", "student", "--to", "./hf", "--private", *on)
    gate = json.loads((tmp_path / "hf" / "gate.json").read_text(encoding="utf-8"))
    checks = {check["name"]: check["status"] for check in gate}
    passed = ("stop token", "template", "weights", "transformers", "stops", "thinks")
    assert {name: checks[name] for name in passed} == dict.fromkeys(passed, "passed"), gate
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert "not measured" in card
