"""The packed pass against TRL's own: same losses, same gradients, for every used objective."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import CLOSE
from passes import (
    GROUP,
    LENGTH,
    ROWS,
    assert_same,
    batch,
    fill_adapters,
    loss_and_gradients,
    make_trainer,
    save_model,
    with_old_and_reference,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
)
from transformers.training_args import ParallelMode

from factory.cpu import packed_logprobs
from factory.cpu.packed import Group, pack_groups
from factory.models.tiny import save_tiny_model
from factory.stages.grpo.trainer import FactoryGrpoTrainer, plain_pass_reason
from factory.trainers.lora import LoraConfig
from factory.trainers.weights import policy_weights

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def trainer(
    float64: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FactoryGrpoTrainer]:
    folder = save_model(tmp_path_factory.mktemp("model"), request.param)
    yield make_trainer(folder, tmp_path_factory.mktemp("output"))


@pytest.mark.parametrize("packed_rows", [1, 2 * GROUP, ROWS])
@pytest.mark.parametrize("old", [False, True], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_packed_loss_and_gradients_are_trls(
    trainer: FactoryGrpoTrainer, beta: float, old: bool, packed_rows: int
) -> None:
    trainer.beta = beta
    inputs = with_old_and_reference(trainer, batch(), old=old)
    plain = loss_and_gradients(trainer, inputs, None)
    assert_same(plain, loss_and_gradients(trainer, inputs, packed_rows))


@pytest.mark.parametrize(
    "loss_type", ["dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
)
@pytest.mark.parametrize("old", [False, True], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_micro_batches_add_up_for_every_loss(
    trainer: FactoryGrpoTrainer, beta: float, old: bool, loss_type: str
) -> None:
    trainer.beta, trainer.loss_type = beta, loss_type
    try:
        inputs = with_old_and_reference(trainer, batch(1), old=old)
        plain = loss_and_gradients(trainer, inputs, None)
        assert_same(plain, loss_and_gradients(trainer, inputs, GROUP))
    finally:
        trainer.loss_type = "grpo"


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "cispo"])
def test_accumulated_batches_give_trls_gradients(
    trainer: FactoryGrpoTrainer, loss_type: str
) -> None:
    """Two batches between optimizer steps; TRL divides inside the loss by their number."""
    trainer.beta, trainer.loss_type = 0.05, loss_type
    trainer.current_gradient_accumulation_steps = 2
    batches = [with_old_and_reference(trainer, batch(seed), old=True) for seed in (4, 5)]
    tokens = sum(inputs["num_items_in_batch"] for inputs in batches)
    results = []
    try:
        for packed_rows in (None, GROUP):
            trainer.packed_rows = packed_rows
            trainer.model.zero_grad()
            losses = []
            for inputs in batches:
                loss = trainer.compute_loss(trainer.model, {**inputs, "num_items_in_batch": tokens})
                loss.backward()
                losses.append(loss.item())
            gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
            results.append((sum(losses), gradients))
        assert_same(*results)
        single = loss_and_gradients(trainer, batches[0], GROUP)[1]
        assert any(not torch.allclose(single[name], results[1][1][name]) for name in single)
    finally:
        trainer.loss_type, trainer.current_gradient_accumulation_steps = "grpo", 1


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_batch_without_any_advantage(trainer: FactoryGrpoTrainer, beta: float) -> None:
    trainer.beta = beta
    inputs = with_old_and_reference(trainer, batch(2), old=False)
    inputs["advantages"] = torch.zeros(ROWS)
    plain = loss_and_gradients(trainer, inputs, None)
    packed = loss_and_gradients(trainer, inputs, GROUP)
    assert packed[0] == pytest.approx(plain[0], rel=CLOSE)
    if beta:
        assert_same(plain, packed)
    else:
        # Every parameter has a gradient of zero, not none: Adam's moments decay as in TRL.
        assert all(not gradient.any() for gradient in packed[1].values())
        assert packed[1].keys() == plain[1].keys()


def test_masked_out_completions_add_nothing(trainer: FactoryGrpoTrainer) -> None:
    trainer.beta = 0.05
    inputs = with_old_and_reference(trainer, batch(3, empty_row=True), old=True)
    plain = loss_and_gradients(trainer, inputs, None)
    assert_same(plain, loss_and_gradients(trainer, inputs, GROUP))


def test_metrics_of_micro_batches_are_those_of_the_batch(trainer: FactoryGrpoTrainer) -> None:
    trainer.beta = 0.05
    inputs = with_old_and_reference(trainer, batch(), old=True)
    loss_and_gradients(trainer, inputs, None)
    plain = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    loss_and_gradients(trainer, inputs, GROUP)
    packed = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert plain["ratio_max"] > 1.1
    assert packed == pytest.approx(plain, rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize("kept", [0, 30_000, 2 * 10**6], ids=["none", "two chunks", "all"])
def test_chunks_of_the_head_that_are_kept_or_computed_anew(
    trainer: FactoryGrpoTrainer, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are cut for float32: seven rows of 259 are 7,252 bytes. What is kept is float64."""
    monkeypatch.setattr(packed_logprobs, "HEAD_BYTES", 7_252)
    monkeypatch.setattr(packed_logprobs, "KEPT_BYTES", kept)
    trainer.beta = 0.05
    inputs = with_old_and_reference(trainer, batch(6), old=True)
    plain = loss_and_gradients(trainer, inputs, None)
    assert_same(plain, loss_and_gradients(trainer, inputs, 2 * GROUP))


def test_the_padding_tokens_embedding_gets_no_gradient(trainer: FactoryGrpoTrainer) -> None:
    """As in torch's own lookup; the end of text is often the padding token."""
    trainer.beta = 0.05
    inputs = with_old_and_reference(trainer, batch(7), old=True)
    inputs["prompt_ids"][:, -1] = 2
    assert trainer.model.get_input_embeddings().padding_idx == 2
    plain = loss_and_gradients(trainer, inputs, None)
    assert_same(plain, loss_and_gradients(trainer, inputs, GROUP))


def test_logprobs_without_gradient_do_not_depend_on_the_packs(trainer: FactoryGrpoTrainer) -> None:
    inputs = batch()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    results = []
    for packed_rows in (None, 1, ROWS):
        trainer.packed_rows = packed_rows
        results.append(trainer.completion_logprobs(ids, mask, LENGTH))
    assert torch.allclose(results[1], results[0], atol=CLOSE)
    assert torch.allclose(results[2], results[0], atol=CLOSE)


def test_layers_that_are_computed_again_give_the_same_gradients(
    trainer: FactoryGrpoTrainer,
) -> None:
    trainer.beta = 0.05
    inputs = with_old_and_reference(trainer, batch(8), old=True)
    kept = loss_and_gradients(trainer, inputs, GROUP)
    trainer.model.gradient_checkpointing_enable()
    try:
        assert_same(kept, loss_and_gradients(trainer, inputs, GROUP))
    finally:
        trainer.model.gradient_checkpointing_disable()


def test_adapters_train_through_the_packed_pass(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "qwen2", hidden=64)
    trainer = make_trainer(folder, tmp_path, lora=LoraConfig(rank=4))
    fill_adapters(trainer)
    inputs = with_old_and_reference(trainer, batch(), old=True)
    plain = loss_and_gradients(trainer, inputs, None)
    assert_same(plain, loss_and_gradients(trainer, inputs, GROUP))

    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    own = merged.state_dict()
    given = dict(policy_weights(trainer.model))
    assert given.keys() == own.keys()
    for name, tensor in given.items():
        own[name].copy_(tensor)
    ids = torch.arange(3, 23)[None]
    assert torch.allclose(merged(ids).logits, trainer.model(ids).logits, atol=CLOSE)


def test_a_pack_runs_each_prompt_once_and_no_last_token() -> None:
    pack = pack_groups([Group([1, 2], [[3, 4], [5]]), Group([6], [[7, 8, 9]])])
    assert pack.input_ids.tolist() == [1, 2, 3, 6, 7, 8]
    assert pack.position_ids.tolist() == [0, 1, 2, 0, 1, 2]
    # Scored: the last cell of prompt 1 (for 3 and 5), cell 2 (for 4), then 6, 7, 8.
    assert pack.scored_cells.tolist() == [1, 2, 3, 4, 5]
    assert pack.pair_row.tolist() == [0, 1, 0, 2, 3, 4]
    assert pack.pair_token.tolist() == [3, 4, 5, 7, 8, 9]


def test_completions_of_about_one_length_attend_together() -> None:
    # One token more than there are inputs.
    pack = pack_groups([Group([1, 2], [[3] * n for n in (2, 9, 1)]), Group([6], [[3] * 5] * 2)])
    assert [tuple(alike.cells.shape) for alike in pack.completions] == [(3, 8), (1, 1)]
    assert [alike.owner.tolist() for alike in pack.completions] == [[0, 1, 1], [0]]
    # The second prompt is one token shorter than the first.
    first, second = pack.completions[0].mask[:2, 0]
    assert first[0].tolist() == [True, True, True] + [False] * 7
    assert second[1].tolist() == [True, False, True, True] + [False] * 6
    # Every cell but those of padding comes back to its own place.
    flat = torch.arange(len(pack.input_ids))
    padded = [pack.prompt_cells, *(alike.cells for alike in pack.completions)]
    assert torch.cat([flat[cells].flatten() for cells in padded])[pack.unpad].equal(flat)


SMALL: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def with_head_bias() -> Any:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(32))
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (MistralConfig(**SMALL), "model type mistral is not one of llama, qwen2, qwen3"),
        (MixtralConfig(**SMALL, num_local_experts=2), "a mixture of experts has an auxiliary loss"),
        (
            Qwen2Config(**SMALL, use_sliding_window=True, max_window_layers=0),
            "some layers attend through a sliding window",
        ),
        (LlamaConfig(**SMALL, attention_dropout=0.1), "attention dropout is on"),
        (LlamaConfig(**SMALL, hidden_act="gelu"), "the activation is gelu, not silu"),
        (with_head_bias, "the LM head has a bias"),
        (LlamaConfig(**SMALL, dtype="bfloat16"), "weights are torch.bfloat16, not float32"),
        (LlamaConfig(**SMALL), None),
    ],
)
def test_models_that_are_not_covered_say_why(model: Any, reason: str | None) -> None:
    built = model() if callable(model) else AutoModelForCausalLM.from_config(model)
    assert plain_pass_reason(built, arguments()) == reason


def arguments(**changed: Any) -> Any:
    plain = {
        "parallel_mode": ParallelMode.NOT_PARALLEL, "world_size": 1, "bf16": False, "fp16": False,
        "cast_lm_head_to_fp32": False, "entropy_coef": 0.0, "use_adaptive_entropy": False,
        "top_entropy_quantile": 1.0,
    }  # fmt: skip
    return SimpleNamespace(**{**plain, **changed})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bf16": True}, None),
        (
            {"parallel_mode": ParallelMode.DISTRIBUTED, "world_size": 2},
            "it runs in the ranks of a launcher (2)",
        ),
        ({"fp16": True}, "the pass runs in float16"),
        (
            {"bf16": True, "cast_lm_head_to_fp32": True},
            "cast_lm_head_to_fp32 keeps the head out of mixed precision",
        ),
        ({"entropy_coef": 0.1}, "an entropy bonus needs gradients of the entropy"),
        ({"use_adaptive_entropy": True}, "an entropy bonus needs gradients of the entropy"),
        ({"top_entropy_quantile": 0.8}, "top_entropy_quantile looks at the whole batch"),
    ],
)
def test_settings_that_are_not_covered_say_why(
    trainer: FactoryGrpoTrainer, changed: dict[str, Any], reason: str | None
) -> None:
    assert plain_pass_reason(trainer.model, trainer.args) is None
    assert plain_pass_reason(trainer.model, arguments(**changed)) == reason


def trained(folder: Path, output: Path, packed_rows: int | None) -> tuple[Any, list[float]]:
    """Weights after two rollouts with two passes over each, and the largest ratio of each step."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def draw(prompts: list[str], trainer: FactoryGrpoTrainer) -> dict[str, list[Any]]:
        stream = torch.Generator().manual_seed(trainer.state.global_step)
        lengths = [1 + row % LENGTH for row in range(len(prompts))]
        return {
            "prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts],
            "completion_ids": [
                torch.randint(3, 259, (length,), generator=stream).tolist() for length in lengths
            ],
            "logprobs": [[0.0] * length for length in lengths],
        }

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The second question's samples are all worth the same."""
        return [
            float(sum(ids) % 5) if prompt != "b?" else 1.0
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]

    trainer = make_trainer(
        folder, output, questions=["a", "b?", "c!?", "some more"], draw=draw, reward=reward,
        passes=2, steps=4, learning_rate=0.3, trl={"optim": "sgd"},
    )  # fmt: skip
    trainer.packed_rows = packed_rows
    trainer.train()
    ratios = [row["ratio_max"] for row in trainer.state.log_history if "ratio_max" in row]
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}, ratios


def test_two_passes_over_each_of_two_rollouts_end_at_the_same_weights(tmp_path: Path) -> None:
    """TRL's whole loop: old and reference log-probs, shuffled rows, clipping, optimizer."""
    folder = save_model(tmp_path / "model", "llama")
    before = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    plain, ratios = trained(folder, tmp_path / "plain", None)
    packed, packed_ratios = trained(folder, tmp_path / "packed", GROUP)
    assert packed_ratios == pytest.approx(ratios, rel=CLOSE)
    assert ratios[0] == pytest.approx(1.0) and ratios[1] > 1.01 and ratios[3] > 1.01
    for name, weight in plain.items():
        moved = (weight - before[name]).norm()
        assert moved > 0, name
        assert (packed[name] - weight).norm() <= CLOSE * moved, name
