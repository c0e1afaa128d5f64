"""Stage `reward_model`: a model that scores responses, learned from pairs or from labels.

R1's last RL stage (arXiv 2501.12948 v2, 3.1; Nature, "Reward design") has two: a helpful model
learned from pairs, with the pairwise loss -log sigmoid(s_chosen - s_rejected), and a safety model
learned from responses labelled safe or unsafe, pointwise. Both are the policy's architecture with
a head of one score, under the same settings.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Block, Table
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.files import naming
from factory.core.jsonl import read_records, recover_rows
from factory.core.readable import count, percent, span
from factory.core.records import Labelled, Pair
from factory.core.seeds import derive
from factory.cost.context import CostContext, Model, StageCost
from factory.cost.flows import Texts, prompt_tokens
from factory.cost.formulas import pass_seconds
from factory.cost.work import training_work
from factory.stages.reward_model.config import RewardModelConfig
from factory.stages.small import CONTEXT, ROWS
from factory.stages.stage import (
    Fields,
    Shows,
    register,
    training_stage,
)
from factory.text.chat import PromptConfig
from factory.text.templates import open_tokenizer
from factory.trainers.arguments import micro_batch_rows

if TYPE_CHECKING:
    from factory.stages.reward_model.rows import Row
    from factory.trainers.scoring import Scorer

CALIBRATION_ROWS = 512
"""Training rows whose scores give the card's mean and deviation."""


def run(config: RewardModelConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Fill `out` with the model, its card, telemetry.jsonl and held_out.jsonl.

    Goes on from the last complete checkpoint; on a CPU the result is the same to the byte as that
    of an undisturbed run. DataError where too many texts are too long, or a split is empty.
    """
    from factory.stages.reward_model import trainer
    from factory.stages.reward_model.rows import hold_out
    from factory.trainers.checkpoints import is_first_rank
    from factory.trainers.opening import row_limit

    folder = inputs["model"].path
    rows = _rows(config, inputs)
    limit = row_limit(folder, config.context)
    kept = [row for row in rows if row.tokens <= limit]
    dropped = len(rows) - len(kept)
    if dropped > config.max_dropped_share * len(rows) or len(kept) < 2:
        raise DataError(
            f"reward_model: {dropped} of {len(rows)} are longer than {limit} tokens, more "
            f"than max_dropped_share {config.max_dropped_share}, or too few are left; raise "
            "context, or give shorter texts"
        )
    train, held_out = hold_out(kept, config.held_out_share, context.seed)
    if not train or not held_out:
        raise DataError("reward_model: all texts have one prompt; at least two are needed")
    trainer.train(
        config, train, folder=folder, micro_batch=micro_batch_rows(config.batch, context.machine),
        out=out, context=context,
    )  # fmt: skip
    if not is_first_rank():
        return {}
    shutil.copyfile(context.scratch / "telemetry.jsonl", out / "telemetry.jsonl")
    steps = recover_rows(context.scratch / "telemetry.jsonl")
    return {
        "rows": float(len(train)),
        "held_out": float(len(held_out)),
        "dropped_rows": float(dropped),
        "steps": float(len(steps)),
        "loss_first": steps[0]["loss"],
        "loss_last": steps[-1]["loss"],
        **_measure(train, held_out, out=out, context=context),
    }


def _rows(config: RewardModelConfig, inputs: Inputs) -> "Sequence[Row]":

    from factory.stages.reward_model.rows import label_rows, pair_rows

    tokenizer = open_tokenizer(inputs["model"].path)
    if config.pairs is not None:
        pairs = read_records(inputs["pairs"].file("pairs.jsonl"), Pair)
        return pair_rows(list(pairs), tokenizer)
    labels = read_records(inputs["labels"].file("labels.jsonl"), Labelled)
    return label_rows(list(labels), tokenizer)


def _measure(
    train: "Sequence[Row]",
    held_out: "Sequence[Row]",
    *,
    out: Path,
    context: Context,
) -> Metrics:
    """Score both splits with the model as it was saved; writes its card and held_out.jsonl."""
    import torch

    from factory.stages.reward_model.rows import PairRow
    from factory.trainers.scoring import CARD, RewardCard, Scorer

    on_pairs = isinstance(train[0], PairRow)
    card = RewardCard(objective="pairs" if on_pairs else "labels", mean=0.0, deviation=1.0)
    (out / CARD).write_text(card.model_dump_json() + "\n", encoding="utf-8")
    machine = context.machine
    scorer = Scorer(
        out,
        device="cuda" if machine.takes_gpu() else "cpu",
        dtype=torch.float32,
        rows=machine.micro_batch,
    )
    shuffled = sorted(train, key=lambda row: derive(context.seed, "calibration", row.prompt))
    seen = _scored(shuffled[:CALIBRATION_ROWS], scorer)
    rows = _scored(held_out, scorer)
    if on_pairs:
        scores = [score for row in seen for score in row["scores"]]
        mean = sum(scores) / len(scores)
        spread = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
        card = card.model_copy(update={"mean": mean, "deviation": spread or 1.0})
        (out / CARD).write_text(card.model_dump_json() + "\n", encoding="utf-8")
    path = out / "held_out.jsonl"
    with naming(path), path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {**_figures(rows), "train_accuracy": _share_right(seen)}


def _scored(rows: "Sequence[Row]", scorer: "Scorer") -> list[dict]:
    """Prompt, scores, lengths in tokens and what was wanted, of each row."""
    from factory.stages.reward_model.rows import PairRow

    sides = [
        (row.chosen_ids, row.rejected_ids) if isinstance(row, PairRow) else (row.ids,)
        for row in rows
    ]
    scores = iter(scorer.score_ids([ids for texts in sides for ids in texts]))
    return [
        {
            "prompt": row.prompt,
            "scores": [next(scores) for _ in texts],
            "tokens": [len(ids) for ids in texts],
            "is_safe": None if isinstance(row, PairRow) else row.is_safe,
        }
        for row, texts in zip(rows, sides, strict=True)
    ]


def _is_right(row: dict) -> float:
    """1 where the order or the label is that of the data; equal scores are half right."""
    if row["is_safe"] is not None:
        return float((row["scores"][0] > 0) == row["is_safe"])
    chosen, rejected = row["scores"]
    return 0.5 if chosen == rejected else float(chosen > rejected)


def _share_right(rows: Sequence[dict]) -> float:
    return sum(_is_right(row) for row in rows) / len(rows)


def _figures(rows: Sequence[dict]) -> Metrics:
    """Held-out accuracy with Wilson's interval, what a blind guess has, and length correlation.

    `baseline`: of pairs the accuracy of always taking the longer side, of labels that of always
    giving the more frequent one. `length_correlation` is Pearson's between score and tokens.
    """
    from factory.evaluation.statistics import wilson

    accuracy = _share_right(rows)
    low, high = wilson(accuracy, len(rows))
    if rows[0]["is_safe"] is None:
        longer = [(row["tokens"][0] - row["tokens"][1]) for row in rows]
        baseline = sum(0.5 if gap == 0 else float(gap > 0) for gap in longer) / len(rows)
    else:
        safe = sum(row["is_safe"] for row in rows) / len(rows)
        baseline = max(safe, 1 - safe)
    return {
        "held_out_accuracy": accuracy,
        "held_out_low": low,
        "held_out_high": high,
        "baseline": baseline,
        "length_correlation": correlation(
            [float(n) for row in rows for n in row["tokens"]],
            [score for row in rows for score in row["scores"]],
        ),
    }


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of both does not vary."""
    means = sum(first) / len(first), sum(second) / len(second)
    parts = [(a - means[0], b - means[1]) for a, b in zip(first, second, strict=True)]
    spread = math.sqrt(sum(a * a for a, _ in parts) * sum(b * b for _, b in parts))
    return sum(a * b for a, b in parts) / spread if spread else 0.0


def estimate(config: RewardModelConfig, cost: CostContext) -> tuple[StageCost, Model]:
    model = cost.model()
    data: Texts = cost.read("pairs" if config.pairs else "labels")
    length = min(
        data.characters / model.shape.characters_per_token
        + 2 * prompt_tokens(PromptConfig(), 0, model.shape).tokens,
        config.context,
    )
    learned = data.rows * (1 - config.held_out_share)
    steps = math.ceil(learned / config.batch) * config.epochs
    taken = training_work(
        cost, model, tokens=steps * config.batch * data.responses * length, length=length,
        steps=steps, longest=config.context, held=cost.held(),
        rows=data.responses * min(cost.machine.micro_batch, max(1, config.batch // cost.ranks)),
    )  # fmt: skip
    scored = data.rows * data.responses * length
    scoring = pass_seconds(model.shape.size(4), cost.speed, scored, length)
    return replace(taken, seconds=taken.seconds + scoring), model


def small(fields: Fields) -> Fields:
    return {
        **fields,
        "epochs": 1,
        "batch": 2 * ROWS,
        "context": min(fields["context"], CONTEXT),
        "max_dropped_share": 0.5,
        "held_out_share": max(fields["held_out_share"], 0.5),
    }


SHOWN = ("reward model", "learned from", "held-out accuracy", "blind guess", "score and length")


def shown(artifact: Artifact) -> Sequence[Block]:
    """Its accuracy on prompts that it never saw, beside a blind guess."""
    manifest = artifact.manifest
    metrics = manifest.metrics
    learned = "labels" if "labels" in manifest.inputs else "pairs"
    source = manifest.inputs[learned].name if learned in manifest.inputs else ""
    accuracy = (
        f"{percent(metrics['held_out_accuracy'])} "
        f"{span(metrics['held_out_low'], metrics['held_out_high'])}, "
        f"n = {count(metrics['held_out'])}"
    )
    row = (
        manifest.name, f"{count(metrics['rows'])} {learned} of {source}", accuracy,
        percent(metrics["baseline"]), f"r = {metrics['length_correlation']:+.2f}",
    )  # fmt: skip
    return [Table(SHOWN, (row,), label="Reward models")]


STAGE = register(
    training_stage(
        RewardModelConfig,
        produces="reward_model",
        version=1,
        run=run,
        packages=("torch", "transformers", "trl"),
        preload=("factory.stages.reward_model.trainer",),
        memory_settings=("micro_batch",),
        estimate=estimate,
        tokens="none",
        small=small,
        visible=None,
        shows=Shows("preferences", shown),
    )
)
