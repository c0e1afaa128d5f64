"""Two optimizers as one: which parameters each has, one schedule for both, and going on."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lab.pretrain.muon import MuonWithAdamW

SHAPE = LlamaConfig(
    vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=1,
)  # fmt: skip


def model(*, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = copy.deepcopy(SHAPE)
    config.tie_word_embeddings = tied
    return LlamaForCausalLM(config)


def optimizer(network: LlamaForCausalLM) -> MuonWithAdamW:
    return MuonWithAdamW(
        network, matrix_learning_rate=0.02, weight_decay=0.1, learning_rate=3e-3, betas=(0.9, 0.95)
    )


def step(network: LlamaForCausalLM, its: MuonWithAdamW, *, seed: int) -> None:
    ids = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(seed))
    network(input_ids=ids, labels=ids).loss.backward()
    its.step()
    its.zero_grad()


def weights(network: LlamaForCausalLM) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_of_layers_are_muons_and_the_rest_is_adams(tied: bool) -> None:
    single = model(tied=tied)
    muon, adam = ({id(p) for p in group["params"]} for group in optimizer(single).param_groups)
    for name, parameter in single.named_parameters():
        is_matrix = "_proj" in name
        assert (id(parameter) in muon, id(parameter) in adam) == (is_matrix, not is_matrix), name


def test_a_schedule_moves_both_rates() -> None:
    single = model()
    its = optimizer(single)
    schedule = torch.optim.lr_scheduler.LambdaLR(its, lambda number: 0.5**number)
    step(single, its, seed=0)
    schedule.step()
    assert [group["lr"] for group in its.param_groups] == [0.01, 1.5e-3]


def test_at_rate_zero_nothing_moves_and_else_every_parameter_does() -> None:
    single = model()
    its = optimizer(single)
    before = weights(single)
    rates = [group["lr"] for group in its.param_groups]
    for group in its.param_groups:
        group["lr"] = 0.0
    step(single, its, seed=0)
    assert all(map(torch.equal, weights(single), before))
    for group, rate in zip(its.param_groups, rates, strict=True):
        group["lr"] = rate
    step(single, its, seed=1)
    assert not any(map(torch.equal, weights(single), before))


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    first = model()
    its = optimizer(first)
    step(first, its, seed=0)
    other = copy.deepcopy(first)
    resumed = optimizer(other)
    resumed.load_state_dict(copy.deepcopy(its.state_dict()))
    fresh = copy.deepcopy(first)
    for each, of in ((first, its), (other, resumed), (fresh, optimizer(fresh))):
        step(each, of, seed=1)
    assert all(map(torch.equal, weights(first), weights(other)))
    assert not all(map(torch.equal, weights(first), weights(fresh)))
