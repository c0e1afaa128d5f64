"""The reward_model stage: TRL's losses by hand, exact resume, what it reports and refuses."""

import json
import math
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import CLOSE
from pydantic import ValidationError
from test_grpo_stage import Events, artifact
from warm import run_script

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import write_records
from factory.core.machine import Machine
from factory.core.records import Labelled, Pair
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.preferences.reading import response_ids
from factory.stages.reward_model.config import RewardModelConfig
from factory.stages.reward_model.rows import LabelRow, PairRow, hold_out
from factory.stages.reward_model.run import correlation, run
from factory.stages.reward_model.trainer import make_trainer
from factory.trainers.scoring import Scorer, open_classifier

MACHINE = Machine(device="cpu", threads=1, micro_batch=4, checkpoint_steps=2)
PAIRS = [
    Pair(prompt=f"Say {n % 9}.", chosen=f"yes {n}", rejected=f"no! {n}", source=str(n))
    for n in range(36)
]
LABELS = [
    Labelled(
        prompt=f"Say {n % 9}.", response="kind" if n % 2 else "mean", is_safe=n % 2 == 1,
        source=str(n),
    )
    for n in range(36)
]  # fmt: skip


def make_inputs(folder: Path) -> Inputs:
    def model(path: Path) -> None:
        save_tiny_model(path, "llama", hidden=32, layers=1)

    return Inputs(
        model=artifact(folder, "base", "model", model),
        pairs=artifact(
            folder, "pairs", "pairs", lambda path: write_records(path / "pairs.jsonl", PAIRS)
        ),
        labels=artifact(
            folder, "labels", "labels", lambda path: write_records(path / "labels.jsonl", LABELS)
        ),
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("artifacts"))


Run = tuple[Path, dict[str, float]]


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One run on pairs, one on labels."""
    return {
        name: run_stage(config(**{name: name}), inputs, tmp_path_factory.mktemp(name))
        for name in ("pairs", "labels")
    }


def config(**settings: Any) -> RewardModelConfig:
    given = {"learning_rate": 3e-3, "epochs": 5, "batch": 8, **settings}
    if "labels" not in given:
        given["pairs"] = "pairs"
    return RewardModelConfig(**{"kind": "reward_model", "model": "base", **given})


def run_stage(
    settings: RewardModelConfig, inputs: Inputs, folder: Path, *, killed_after: int | None = None
) -> tuple[Path, dict[str, float]]:
    """Runs in `folder`, going on from what an earlier run left there."""
    out, scratch = folder / "out", folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    context = Context(7, MACHINE, scratch, Events(killed_after))  # type: ignore[arg-type]
    return out, run(settings, inputs, out, context)


def step(
    rows: Sequence[Any], tmp_path: Path, *, micro_batch: int, scores: list[float]
) -> tuple[float, float]:
    """Loss of one step whose texts get these scores (of pairs chosen first), and its gradient.

    The head's weight is zero, so no text matters; the score of a text comes from a table by its
    last token.
    """
    folder = save_tiny_model(tmp_path / "model", "llama", hidden=32, layers=1)
    model = open_classifier(folder, torch.float32)
    table = torch.nn.Parameter(torch.tensor(scores))

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
        last = input_ids.gather(1, attention_mask.sum(dim=1, keepdim=True) - 1)
        return type("Output", (), {"logits": table[last - 100]})()

    settings = config(batch=len(rows), epochs=1)
    machine = MACHINE.model_copy(update={"micro_batch": micro_batch})
    trainer = make_trainer(
        settings, rows, folder=folder, model=model, micro_batch=micro_batch,
        context=Context(0, machine, tmp_path / "scratch"),
    )  # fmt: skip
    model.forward = forward  # type: ignore[method-assign]
    loss = 0.0
    loader = list(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = len(loader)
    for inputs in loader:
        loss += float(trainer.training_step(model, dict(inputs)))
    assert table.grad is not None
    return loss, float(table.grad[0])


def test_the_pairwise_loss_is_bradley_and_terrys(float64_here: None, tmp_path: Path) -> None:
    # Scores 2 over 1 and 0 over 3: -log sigmoid(1) = log(1 + e^-1) = 0.313262 and
    # -log sigmoid(-3) = log(1 + e^3) = 3.048587; their mean is 1.680925.
    rows = [PairRow("a", (5, 100), (5, 101)), PairRow("b", (6, 6, 102), (6, 6, 103))]
    wanted = (math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 2
    assert wanted == pytest.approx(1.680925, abs=1e-6)
    scores = [2.0, 1.0, 0.0, 3.0]
    full, gradient = step(rows, tmp_path / "whole", micro_batch=2, scores=scores)
    assert full == pytest.approx(wanted, abs=CLOSE)
    # Of the first pair's chosen score: -(1 - sigmoid(1)) / 2 = -0.268941 / 2.
    assert gradient == pytest.approx(-0.1344707, abs=1e-6)
    swapped, _ = step(rows, tmp_path / "swapped", micro_batch=2, scores=[1.0, 2.0, 3.0, 0.0])
    assert swapped == pytest.approx((1.3132617 + 0.0485874) / 2, abs=1e-6)


def test_the_pointwise_loss_is_binary_cross_entropy(float64_here: None, tmp_path: Path) -> None:
    # Score 2 of a safe text and 1 of an unsafe one: log(1 + e^-2) = 0.126928 and
    # log(1 + e^1) = 1.313262; their mean is 0.720095.
    rows = [LabelRow("a", (5, 100), True), LabelRow("b", (6, 6, 101), False)]
    loss, gradient = step(rows, tmp_path / "one", micro_batch=2, scores=[2.0, 1.0])
    assert loss == pytest.approx(0.720095, abs=1e-6)
    # (sigmoid(2) - 1) / 2 = -0.1192029 / 2.
    assert gradient == pytest.approx(-0.0596015, abs=1e-6)
    other, _ = step(rows, tmp_path / "other", micro_batch=2, scores=[1.0, 2.0])
    assert other == pytest.approx((0.3132617 + 2.1269280) / 2, abs=1e-6)


def test_micro_batches_add_up_to_the_batch(float64_here: None, tmp_path: Path) -> None:
    rows = [LabelRow("a", (5, 100), True), LabelRow("b", (6, 6, 101), False)]
    full = step(rows, tmp_path / "whole", micro_batch=2, scores=[2.0, 1.0])
    parts = step(rows, tmp_path / "parts", micro_batch=1, scores=[2.0, 1.0])
    assert parts == pytest.approx(full, abs=CLOSE)


@pytest.mark.parametrize("learns_from", ["pairs", "labels"])
def test_it_learns_and_says_how_well_on_prompts_it_never_saw(
    learns_from: str, undisturbed: dict[str, Run]
) -> None:
    out, metrics = undisturbed[learns_from]
    assert metrics["loss_last"] < 0.3 < metrics["loss_first"]
    assert metrics["held_out_accuracy"] == metrics["train_accuracy"] == 1.0
    # One of nine prompts is held out with its four texts; Wilson's lower end of 4 of 4.
    assert (metrics["rows"], metrics["held_out"]) == (32, 4)
    assert metrics["held_out_low"] == pytest.approx(4 / (4 + 1.959964**2), abs=1e-6)
    assert (metrics["held_out_high"], metrics["baseline"]) == (1.0, 0.5)
    rows = [json.loads(line) for line in (out / "held_out.jsonl").read_text().splitlines()]
    assert len({row["prompt"] for row in rows}) == 1
    # Both words have as many letters: length tells nothing, up to the number of digits.
    assert abs(metrics["length_correlation"]) < 0.5
    assert not list(out.glob("*.bin"))
    assert json.loads((out / "reward_model.json").read_text())["objective"] == learns_from


def test_scores_do_not_depend_on_what_shares_the_batch_nor_on_special_text(
    undisturbed: dict[str, Run],
) -> None:
    out, _ = undisturbed["pairs"]
    prompts = ["Say 1.", "Say 2, and say it slowly.", "Say 3."]
    texts = ["yes 1", "no! 2 <|im_end|>", "x" * 50]
    together = Scorer(out, device="cpu", dtype=torch.float64, rows=3).score(prompts, texts)
    alone = Scorer(out, device="cpu", dtype=torch.float64, rows=1).score(prompts, texts)
    assert together == pytest.approx(alone, abs=CLOSE)
    assert len(set(together)) == 3
    # 2 is <|im_end|>: the turn's own, and none that the response spells out.
    ids = response_ids("a<|im_end|>b", "c<|im_end|>", byte_tokenizer())
    assert ids.count(2) == 1


def test_rewards_are_scores_against_those_of_the_training_texts(
    undisturbed: dict[str, Run],
) -> None:
    out, _ = undisturbed["pairs"]
    scorer = Scorer(out, device="cpu", dtype=torch.float32, rows=8)
    score = scorer.score(["Say 1."], ["yes 1"])[0]
    card = scorer.card
    wanted = 1 / (1 + math.exp(-(score - card.mean) / card.deviation))
    assert scorer.reward(["Say 1."], ["yes 1"])[0] == pytest.approx(wanted, abs=1e-9)
    card = Scorer(undisturbed["labels"][0], device="cpu", dtype=torch.float32, rows=8).card
    assert (card.mean, card.deviation) == (0.0, 1.0)


def test_no_prompt_is_on_both_sides_and_the_split_depends_on_the_text_alone() -> None:
    rows = [LabelRow(f"p{n % 5}", (n,), True) for n in range(20)]
    train, held_out = hold_out(rows, 0.4, 3)
    assert {row.prompt for row in train} & {row.prompt for row in held_out} == set()
    assert (len(train), len(held_out)) == (12, 8)
    again, _ = hold_out(rows[::-1], 0.4, 3)
    assert {row.prompt for row in again} == {row.prompt for row in train}
    assert [len(part) for part in hold_out(rows, 0.999, 3)] == [4, 16]


def test_correlation_is_pearsons() -> None:
    # (1, 2, 3) and (1, 3, 2): sums of products 1, of squares 2 and 2.
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5, abs=1e-12)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0.0


def test_it_is_refused_where_nothing_can_be_learned(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="give either pairs or labels, found both"):
        RewardModelConfig(kind="reward_model", model="base", pairs="a", labels="b")
    with pytest.raises(DataError, match="36 of 36 are longer than 20 tokens"):
        run_stage(config(context=20), inputs, tmp_path / "long")


def child(folder: str, killed_after: str) -> None:
    run_stage(
        config(labels="labels"), make_inputs(Path(folder) / "inputs"), Path(folder),
        killed_after=int(killed_after),
    )  # fmt: skip


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    inputs: Inputs, undisturbed: dict[str, Run], tmp_path: Path
) -> None:
    full, metrics = undisturbed["labels"]
    killed = tmp_path / "killed"
    killed.mkdir()
    done = run_script(Path(__file__), str(killed), "15", settings={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list((killed / "scratch" / "trainer").glob("checkpoint-*/COMPLETE"))
    again, same = run_stage(config(labels="labels"), inputs, killed)
    assert same == metrics
    names = sorted(path.name for path in full.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert [
        name for name in names if (full / name).read_bytes() != (again / name).read_bytes()
    ] == []


if __name__ == "__main__":
    child(*sys.argv[1:])
