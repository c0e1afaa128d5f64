"""The trainer that really runs, held to the formula of supervised fine-tuning.

loss = - (1 / N) sum over the N completion tokens of log softmax(logits)[next token]
"""

import math
from pathlib import Path

import pytest
import torch
from doubles import CLOSE

from factory.core.context import Context
from factory.core.machine import Machine
from factory.cpu.completion_loss import completion_loss
from factory.models.tiny import byte_tokenizer, tiny_model
from factory.stages.sft.config import SftConfig
from factory.stages.sft.trainer import CompletionTrainer, learning_rate_share, make_trainer
from factory.trainers.lora import LoraConfig
from factory.trainers.rows import IGNORED, Row
from factory.trainers.stored_rows import StoredRows

END = 2
"""End of text, and padding too, as in SmolLM2."""
ROWS = (
    Row(prompt_ids=(5, 6, 7), completion_ids=(8, 9, 10, END)),
    Row(prompt_ids=(11, 12), completion_ids=(13, 14, END)),
    Row(prompt_ids=(15,), completion_ids=(16, 17, 18, 19, 20, END)),
)
EXACT = 1e-6
"""For numbers that are worked out by hand, to seven digits."""

pytestmark = pytest.mark.usefixtures("float64")


def config(**changes) -> SftConfig:
    values = {"learning_rate": 1e-3, "epochs": 1, "batch": len(ROWS), "warmup_fraction": 0.0}
    return SftConfig(kind="sft", model="m", traces="t", **{**values, **changes})


def trainer_for(
    folder: Path,
    settings: SftConfig,
    *,
    rows: tuple[Row, ...] = ROWS,
    micro_batch: int | None = None,
    architecture: str = "llama",
    model: torch.nn.Module | None = None,
) -> CompletionTrainer:
    context = Context(0, Machine(device="cpu"), folder)
    return make_trainer(
        settings,
        StoredRows.of(rows),
        model=model or tiny_model(architecture),
        tokenizer=byte_tokenizer(),
        micro_batch=micro_batch or settings.batch,
        context=context,
    )


def first_batch(trainer: CompletionTrainer) -> dict[str, torch.Tensor]:
    return next(iter(trainer.get_train_dataloader()))


def log_likelihoods(model: torch.nn.Module, row: Row) -> torch.Tensor:
    """Of every token of a row after its first, by plain torch, the row alone."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits = model(input_ids=ids).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


def test_the_head_and_its_gradients_are_those_worked_out_by_hand():
    # Logits h.w are (0, ln 3): probabilities 1/4 and 3/4. For target 1:
    #   loss = -ln(3/4) = 0.28768; d loss/d logits = (1/4, 3/4 - 1) = (0.25, -0.25)
    #   d loss/d h = 0.25 (0, 0) - 0.25 (ln 3, 0); d loss/d w_0 = 0.25 h, d loss/d w_1 = -0.25 h
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], requires_grad=True)
    loss = completion_loss(hidden, weight, torch.tensor([1]))
    loss.negative_log_likelihood.backward()
    assert loss.negative_log_likelihood.item() == pytest.approx(0.2876821, abs=EXACT)
    assert loss.correct.item() == 1
    assert hidden.grad.tolist() == [[pytest.approx(-0.25 * math.log(3), abs=EXACT), 0.0]]
    expected = torch.tensor([[0.25, 0.0], [-0.25, 0.0]])
    torch.testing.assert_close(weight.grad, expected, atol=EXACT, rtol=0)


def test_the_chunked_head_equals_torch_over_several_chunks():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(600, 16, generator=generator, requires_grad=True)
    weight = torch.randn(37, 16, generator=generator, requires_grad=True)
    targets = torch.randint(37, (600,), generator=generator)
    (completion_loss(hidden, weight, targets).negative_log_likelihood / 600).backward()
    results = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    torch.nn.functional.cross_entropy(hidden @ weight.T, targets).backward()
    torch.testing.assert_close(results[0], hidden.grad, atol=CLOSE, rtol=0)
    torch.testing.assert_close(results[1], weight.grad, atol=CLOSE, rtol=0)


def test_an_untrained_flat_model_starts_at_the_logarithm_of_the_vocabulary(tmp_path: Path):
    # All weights zero: all logits equal, so every token costs ln 259 = 5.556828.
    model = tiny_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    trainer = trainer_for(tmp_path, config(), model=model)
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    assert loss.item() == pytest.approx(5.556828, abs=EXACT)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_loss_is_the_mean_over_completion_tokens(
    tmp_path: Path, architecture: str, packing: bool
):
    trainer = trainer_for(tmp_path, config(packing=packing), architecture=architecture)
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    scored, everything = [], []
    for row in ROWS:
        values = log_likelihoods(tiny_model(architecture), row)
        everything.append(values)
        scored.append(values[len(row.prompt_ids) - 1 :])
    assert sum(len(values) for values in scored) == 4 + 3 + 6
    assert loss.item() == pytest.approx(-torch.cat(scored).mean().item(), abs=CLOSE)
    # With the prompt in the mask, or a mean of the rows' means, the number is another one.
    assert abs(loss.item() + torch.cat(everything).mean().item()) > 1e-4
    assert abs(loss.item() + torch.stack([v.mean() for v in scored]).mean().item()) > 1e-4


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_the_faster_head_gives_the_loss_and_gradient_of_trl(tmp_path: Path, lora):
    trainer = trainer_for(tmp_path, config(lora=lora))
    batch = first_batch(trainer)
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    results = []
    for compute_loss in (trainer.compute_loss, super(CompletionTrainer, trainer).compute_loss):
        loss = compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(13))
        results.append((loss.item(), torch.autograd.grad(loss, parameters)))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert ours == pytest.approx(theirs, abs=CLOSE)
    for mine, other in zip(our_gradient, their_gradient, strict=True):
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, other, atol=CLOSE, rtol=0)


def test_the_end_token_is_learned_where_padding_has_the_same_id(tmp_path: Path):
    trainer = trainer_for(tmp_path, config())
    assert trainer.processing_class.pad_token_id == END
    batch = first_batch(trainer)
    # Longest row first: 7 tokens each of rows 0 and 2, 5 of row 1 with two of padding.
    assert batch["input_ids"][2].tolist() == [11, 12, 13, 14, END, END, END]
    assert batch["labels"][2].tolist() == [IGNORED, IGNORED, 13, 14, END, IGNORED, IGNORED]
    assert batch["attention_mask"][2].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert int((batch["labels"] == END).sum()) == len(ROWS)


def segments(trainer: CompletionTrainer, *, restart: bool = True) -> tuple[dict, list[slice]]:
    """A packed batch as the trainer makes it, and where its segments lie."""
    batch = first_batch(trainer)
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], batch["input_ids"].shape[1]]
    if not restart:
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]
    return batch, [slice(a, b) for a, b in zip(starts, ends, strict=True)]


def leak(trainer: CompletionTrainer, *, restart: bool) -> float:
    """How far other segments' logits move when every token of the first one is replaced."""
    batch, (first, *others) = segments(trainer, restart=restart)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    model = trainer.model.eval()
    with torch.no_grad():
        before = model(**inputs).logits[0]
        inputs["input_ids"] = inputs["input_ids"].clone()
        inputs["input_ids"][0, first] += 100
        after = model(**inputs).logits[0]
    assert (before[first] - after[first]).abs().max() > 0.1
    return max(float((before[part] - after[part]).abs().max()) for part in others)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_segments_do_not_see_each_other(tmp_path: Path, architecture: str, attention: str):
    model = tiny_model(architecture)
    model.set_attn_implementation(attention)
    trainer = trainer_for(tmp_path, config(packing=True), model=model)
    batch, parts = segments(trainer)
    assert batch["input_ids"].shape == (1, 7 + 5 + 7)
    assert [part.stop - part.start for part in parts] == [7, 7, 5]
    assert leak(trainer, restart=True) == 0.0
    # The same probe must see the leak of a packed row whose positions do not restart.
    assert leak(trainer, restart=False) > 1e-3


def train_once(folder: Path, settings: SftConfig, micro_batch: int) -> torch.nn.Module:
    trainer = trainer_for(folder, settings, micro_batch=micro_batch)
    trainer.train()
    return trainer.model


def test_micro_batches_and_packing_do_not_change_what_is_learned(tmp_path: Path):
    # Plain gradient descent: Adam's first step would hide a gradient of the wrong scale.
    plain = {"trl": {"optim": "sgd"}, "learning_rate": 0.1, "max_grad_norm": 1000.0}
    full = train_once(tmp_path / "a", config(**plain), 3).state_dict()
    start = tiny_model("llama").state_dict()
    for name, packing, micro_batch in (("b", False, 1), ("c", True, 3), ("d", True, 1)):
        settings = config(packing=packing, **plain)
        other = train_once(tmp_path / name, settings, micro_batch).state_dict()
        for key, value in full.items():
            torch.testing.assert_close(other[key], value, atol=CLOSE, rtol=0, msg=f"{name} {key}")
    assert max(float((full[key] - start[key]).abs().max()) for key in full) > 1e-3


def test_four_traces_are_memorised_with_their_end(tmp_path: Path):
    tokenizer = byte_tokenizer()
    texts = {"one?": "the first answer", "two?": "second", "three?": "3", "four?": "fourth!"}
    rows = tuple(
        Row(tuple(tokenizer(question)["input_ids"]), (*tokenizer(answer)["input_ids"], END))
        for question, answer in texts.items()
    )
    settings = config(epochs=40, batch=4, learning_rate=5e-3)
    trainer = trainer_for(tmp_path, settings, rows=rows)
    trainer.train()
    model = trainer.model.eval()
    for row in rows:
        prompt = torch.tensor([row.prompt_ids])
        written = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30
        )
        assert tuple(written[0, prompt.shape[1] :].tolist()) == row.completion_ids


def test_the_learning_rate_falls_to_one_tenth_at_the_last_step(tmp_path: Path):
    # Five steps, no warm-up: cos(0, 45, 90, 135, 180 degrees) give
    #   0.1 + 0.9 (1 + cos)/2 = 1, 0.8681981, 0.55, 0.2318019, 0.1
    shares = [learning_rate_share(i, 5, warmup_fraction=0.0, final=0.1) for i in range(5)]
    assert shares == pytest.approx([1.0, 0.8681981, 0.55, 0.2318019, 0.1], abs=EXACT)
    # Two steps of warm-up out of five: 1/3, 2/3, then the cosine's 0, 90 and 180 degrees.
    shares = [learning_rate_share(i, 5, warmup_fraction=0.4, final=0.1) for i in range(5)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 0.55, 0.1], abs=EXACT)
    trainer = trainer_for(tmp_path, config(epochs=5))
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
    expected = [1e-3, 8.681981e-4, 5.5e-4, 2.318019e-4, 1e-4]
    assert rates == pytest.approx(expected, abs=1e-9)


def test_a_run_of_one_step_trains_at_the_full_rate():
    assert learning_rate_share(0, 1, warmup_fraction=0.03, final=0.1) == 1.0


@pytest.mark.parametrize("name", ["own_scale", "own_cap", "own_shift"])
def test_a_head_that_does_more_than_multiply_has_the_models_own_loss(tmp_path: Path, name: str):
    # None of these has a setting in the config: only the logits tell.
    changes = {
        "own_scale": lambda logits: 0.25 * logits,
        "own_cap": lambda logits: 0.1 * torch.tanh(logits / 0.1),
        "own_shift": lambda logits: logits + torch.linspace(-1, 1, logits.shape[-1]),
    }
    model = tiny_model("llama")
    forward = type(model).forward

    def changed(self, *args, **kwargs):
        labels = kwargs.pop("labels", None)
        output = forward(self, *args, **kwargs)
        output.logits = changes[name](output.logits)
        if labels is not None:
            count = kwargs.pop("num_items_in_batch", None)
            vocabulary = output.logits.shape[-1]
            output.loss = self.loss_function(output.logits, labels, vocabulary, count)
        return output

    model.__class__ = type("Changed", (type(model),), {"forward": changed})
    trainer = trainer_for(tmp_path, config(), model=model)
    batch = first_batch(trainer)
    loss = trainer.compute_loss(model, batch)
    own = [log_likelihoods(model, row)[len(row.prompt_ids) - 1 :] for row in ROWS]
    expected = -torch.cat(own).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
