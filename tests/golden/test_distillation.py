"""The trainer that really runs, held to the divergences worked out by hand.

A model of two tokens whose logits depend on the last token alone. After token 0 the student's are
(0, ln 3), so its probabilities are s = (1/4, 3/4); after token 1 they are (0, 0). The teacher's are
always t = (1/2, 1/2). So after token 1 nothing is to be learned, and after token 0:

    reverse KL(s || t)  = 1/4 ln(1/2) + 3/4 ln(3/2)                               = 0.1308120
    forward KL(t || s)  = 1/2 ln 2 + 1/2 ln(2/3)                                  = 0.1438410
    JSD at beta 1/2, m = (3/8, 5/8):
        1/2 [1/2 ln(4/3) + 1/2 ln(4/5)] + 1/2 [1/4 ln(2/3) + 3/4 ln(6/5)]         = 0.0338221
    reverse KL at temperature 2: s = (1, sqrt 3) / (1 + sqrt 3) = (0.3660254, 0.6339746)
        0.3660254 ln 0.7320508 + 0.6339746 ln 1.2679492                           = 0.0363408

Two rows, prompt then completion: (0) (0 1) and (1) (0). The three tokens of the completions are
read after 0, 0 and 1: the loss is 2/3 of the divergence.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from factory.core.context import Context
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.models.tiny import byte_tokenizer
from factory.sampling import Completion, Request
from factory.sampling.sampler import OnEnd, nobody
from factory.stages.distill.config import DistillConfig
from factory.stages.distill.texts import Planned
from factory.stages.distill.trainer import Engine, OnPolicyTrainer, make_trainer
from factory.trainers.phases import PhaseClock

EXACT = 1e-6
"""For numbers that are worked out by hand, to seven digits."""
pytestmark = pytest.mark.usefixtures("float64")
WIDTH = 8
TEXTS = (Planned((0,)), Planned((1,)))
WRITTEN = {(0,): (0, 1), (1,): (0,)}
REVERSE, FORWARD, HALF, WARM = 0.1308120, 0.1438410, 0.0338221, 0.0363408


def two_tokens(after_zero: float) -> LlamaForCausalLM:
    """Logits (0, after_zero) after token 0 and (0, 0) after token 1.

    All layers are zero, so the hidden state is the token's embedding: ones, or ones of both signs.
    """
    config = LlamaConfig(
        vocab_size=2, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=False,
        rms_norm_eps=1e-12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    signs = torch.tensor([1.0, -1.0]).repeat(WIDTH // 2)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.stack([torch.ones(WIDTH), signs]))
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = after_zero / WIDTH
    return model


class Written:
    """An engine of the student that writes what this test wants written."""

    name = "written"

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        after_zero = torch.tensor([0.0, math.log(3) / sampling.temperature]).log_softmax(0).tolist()
        after = (after_zero, [math.log(0.5)] * 2)
        results = []
        for request in requests:
            tokens = WRITTEN[request.prompt_ids]
            read = (*request.prompt_ids, *tokens)
            logprobs = tuple(after[before][now] for before, now in itertools.pairwise(read))
            results.append(Completion("", tokens, logprobs, "stop"))
        return results


def trainer_of(folder: Path, **settings: Any) -> OnPolicyTrainer:
    config = DistillConfig.model_validate(
        {
            "kind": "distill", "model": "m", "teacher": "t", "problems": "p", "steps": 1,
            "prompts": len(TEXTS), "max_new_tokens": 2, **settings,
        }
    )  # fmt: skip
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = "<|endoftext|>"  # id 0; its own, 2, is none of this vocabulary
    return make_trainer(
        config, TEXTS, model=two_tokens(math.log(3)), teacher=two_tokens(0.0),
        tokenizer=tokenizer, engine=Engine(Written(), "float32", PhaseClock()),  # type: ignore[arg-type]
        context=Context(0, Machine(device="cpu"), folder),
    )  # fmt: skip


def batch(trainer: OnPolicyTrainer) -> dict[str, torch.Tensor]:
    """Both rows as the trainer makes them of its plan, in one batch."""
    (rows,) = trainer.get_train_dataloader()
    trainer.model.train()
    return trainer._prepare_inputs(rows)


@pytest.mark.parametrize(
    ("settings", "divergence"),
    [
        ({}, REVERSE),
        ({"beta": 0.0}, FORWARD),
        ({"beta": 0.5}, HALF),
        ({"temperature": 2.0}, WARM),
    ],
)
def test_the_loss_is_the_mean_divergence_of_a_completion_token(
    tmp_path: Path, settings: dict[str, float], divergence: float
) -> None:
    trainer = trainer_of(tmp_path, **settings)
    loss = trainer.compute_loss(trainer.model, batch(trainer))
    assert loss.item() == pytest.approx(2 * divergence / 3, abs=EXACT)
    # Counting the padding too, which is read after a 0, would make it three of four tokens.
    assert abs(3 * divergence / 4 - 2 * divergence / 3) > 1e-3
    # The other direction, or another weight of it, is another number.
    others = {REVERSE, FORWARD, HALF, WARM} - {divergence}
    assert min(abs(divergence - other) for other in others) > 1e-3


def test_the_gradient_is_that_of_the_students_distribution_alone(tmp_path: Path) -> None:
    # d KL(s || t) / d logit_i = s_i (ln(s_i / t_i) - KL): for token 1 after token 0
    #   3/4 (ln(3/2) - 0.1308120) = 0.2059898, and its negative for token 0;
    # of the two of three tokens that are read after 0, times a hidden state of ones.
    trainer = trainer_of(tmp_path)
    trainer.compute_loss(trainer.model, batch(trainer)).backward()
    each = 2 * 0.2059898 / 3
    wanted = torch.tensor([[-each] * WIDTH, [each] * WIDTH])
    torch.testing.assert_close(trainer.model.lm_head.weight.grad, wanted, atol=EXACT, rtol=0)
    assert all(weight.grad is None for weight in trainer.teacher_model.parameters())
