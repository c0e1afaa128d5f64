"""What of TRL is replaced: another version is noticed here, before it trains."""

import ast
import hashlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trl
from test_distill_stage import config as distill_config
from test_grpo_stage import config as grpo_config
from test_grpo_stage import make_inputs, run_stage
from test_machine_in_training import inputs as inputs

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.machine import Machine, environment
from factory.stages import STAGES
from factory.stages.distill.trainer import OnPolicyTrainer
from factory.stages.grpo.trainer import FactoryGrpoTrainer
from factory.stages.reward_model.trainer import LabelTrainer, PairTrainer
from factory.stages.sft.trainer import CompletionTrainer
from factory.trainers.trl_hooks import TESTED, GivenLogprobsTrainer, GivenTextsTrainer

FACTORY = Path(__file__).resolve().parents[2] / "factory"
TRL_TRAINERS = (trl.SFTTrainer, trl.GRPOTrainer, trl.DistillationTrainer, trl.RewardTrainer)
OURS = (CompletionTrainer, FactoryGrpoTrainer, OnPolicyTrainer, PairTrainer, LabelTrainer)
HOOKS = {
    GivenLogprobsTrainer: ("_get_per_token_logps_and_entropies",),
    GivenTextsTrainer: ("_tokenize_prompts", "_generate_single_turn"),
}
"""All private methods of TRL that are replaced."""
SOURCES = {
    "GRPOTrainer._get_per_token_logps_and_entropies": "ea73c3909275851d",
    "GRPOTrainer._generate_and_score_completions": "1fa48922792dcd5c",
    "GRPOTrainer._compute_loss": "80295546bbdbf6f7",
    "GRPOTrainer._calculate_rewards": "736ae29b083840b5",
    "GRPOTrainer._prepare_inputs": "f824e7fb07147956",
    "GRPOTrainer.__init__": "18f01b7a46c9544b",
    "GRPOTrainer.compute_loss": "a2d6ef8bd29c3e26",
    "DistillationTrainer._tokenize_prompts": "30568810007eb3f7",
    "DistillationTrainer._generate_single_turn": "b2cc5048ef74151f",
    "DistillationTrainer._generate": "011443de5bf7828b",
    "DistillationTrainer._prepare_inputs": "a0b5e05b3647e889",
}
"""Hashes of the replaced methods, of their callers (`__init__` calls `prepare_fsdp`), and of what
seeds and totals rely on: that nothing draws between the last hook and the shuffle, and that rewards
meet no other weight."""
IMPORTERS = {
    "trainers/trl_hooks.py": "trainers and their arguments",
    "cpu/packed_logprobs.py": "a kernel",
    "evaluation/audit.py": "a grader to compare with",
}


def source_of(name: str) -> str:
    """Head of the sha256 of a method of TRL, decorators and signature included."""
    trainer, method = name.split(".")
    text = inspect.getsource(getattr(getattr(trl, trainer), method))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def private(names: Any) -> set[str]:
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_trl_is_the_version_that_the_hooks_were_checked_with() -> None:
    changed = [name for name, expected in SOURCES.items() if source_of(name) != expected]
    assert trl.__version__ == TESTED and not changed, (
        f"checked with TRL {TESTED}, this is {trl.__version__}: read its changes to "
        f"{', '.join(changed) or 'its trainers'}, run tests/golden, and raise TESTED and the "
        "hashes here"
    )


@pytest.mark.parametrize("trainer", [trl.GRPOTrainer, trl.DistillationTrainer])
def test_another_source_of_a_hook_is_noticed(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:

    def _prepare_inputs(self: Any, generation_batch: Any) -> Any:
        return generation_batch

    monkeypatch.setattr(trainer, "_prepare_inputs", _prepare_inputs)
    with pytest.raises(
        AssertionError, match=f"{trainer.__name__}._prepare_inputs, run tests/golden"
    ):
        test_trl_is_the_version_that_the_hooks_were_checked_with()


def test_a_hook_can_be_called_as_trl_calls_it() -> None:
    for trainer, methods in HOOKS.items():
        for method in methods:
            theirs = inspect.signature(getattr(trainer.__mro__[1], method)).parameters
            ours = inspect.signature(getattr(trainer, method))
            ours.bind(*range(sum(p.default is p.empty for p in theirs.values())))
            # Each further argument of theirs may come by its name.
            named = [name for name, p in theirs.items() if p.default is not p.empty]
            ours.bind_partial(**dict.fromkeys(named, None))


def test_five_private_methods_at_most_are_replaced_and_all_in_one_module() -> None:
    replaced = {}
    for ours in (*OURS, *HOOKS):
        for step in ours.__mro__:
            if step.__module__.startswith("factory."):
                base = next(b for b in step.__mro__ if not b.__module__.startswith("factory."))
                replaced[step] = private(vars(step)) & private(dir(base))
    assert {step: set(names) for step, names in HOOKS.items()} == {
        step: names for step, names in replaced.items() if names
    }
    assert sum(map(len, HOOKS.values())) <= 5


def private_names_of_trl() -> set[str]:
    """Private methods and attributes of TRL's trainers and of those that they are made from."""
    names: set[str] = set()
    for trainer in TRL_TRAINERS:
        names |= private(dir(trainer))
        for step in trainer.__mro__:
            if step.__module__.split(".")[0] in ("trl", "transformers"):
                tree = ast.parse(inspect.getsource(sys.modules[step.__module__]))
                names |= private(
                    node.attr
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                )
    return names


def uses(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Attributes of these names that a module reads, sets, defines as methods, or spells out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            yield node.attr
        elif isinstance(node, ast.Constant) and node.value in names:
            yield str(node.value)
        elif isinstance(node, ast.ClassDef):
            yield from (n.name for n in node.body if getattr(n, "name", None) in names)


def modules_that_train() -> dict[str, ast.Module]:
    paths = [*(FACTORY / "trainers").glob("*.py"), *(FACTORY / "stages").glob("*/*.py")]
    return {
        path.relative_to(FACTORY).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
    }


def test_no_other_module_names_what_is_private_to_trl() -> None:
    names = private_names_of_trl()
    assert {"_metrics", "_step", "_compute_loss", "_created_lr_scheduler"} <= names
    trees = modules_that_train()
    hooks = trees.pop("trainers/trl_hooks.py")
    allowed = {"_metrics", *(method for methods in HOOKS.values() for method in methods)}
    assert set(uses(hooks, names)) == allowed
    assert {path: sorted(set(uses(tree, names))) for path, tree in trees.items()} == {
        path: [] for path in trees
    }


@pytest.mark.parametrize(
    "planted",
    [
        "class T(GRPOTrainer):\n    def _compute_loss(self): ...",
        "trainer._buffered_inputs = None",
        "loss = super()._compute_loss(model, part)",
        "setattr(trainer, '_step', 3)",
    ],
)
def test_a_planted_private_name_is_seen(planted: str) -> None:
    assert list(uses(ast.parse(planted), private_names_of_trl()))


def test_trl_is_imported_where_this_says() -> None:
    importers = {
        path.relative_to(FACTORY).as_posix()
        for path in FACTORY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "trl")
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "trl" for a in node.names))
    }
    assert importers == set(IMPORTERS)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the hooks in the order in which TRL calls them."""
    names: list[str] = []

    def counted(name: str, original: Any) -> Any:
        def hook(*args: Any, **kwargs: Any) -> Any:
            names.append(name)
            return original(*args, **kwargs)

        return hook

    for trainer, methods in HOOKS.items():
        for method in methods:
            monkeypatch.setattr(trainer, method, counted(method, getattr(trainer, method)))
    return names


def test_two_steps_of_grpo_call_its_hook_in_every_pass(calls: list[str], tmp_path: Path) -> None:
    """A rollout of one update: the reference's pass and the loss's, twice; its check calls none."""
    run_stage(
        grpo_config(steps=2, updates_per_rollout=1), make_inputs(tmp_path / "inputs"),
        tmp_path, machine=Machine(device="cpu", training_pass="trl", micro_groups=8),
    )  # fmt: skip
    assert calls == ["_get_per_token_logps_and_entropies"] * 4


def test_two_steps_of_distill_call_its_hooks(
    calls: list[str], inputs: Inputs, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    context = Context(0, Machine(device="cpu", engine="transformers"), tmp_path)
    STAGES["distill"].run(distill_config(steps=2), inputs, tmp_path / "out", context)
    assert calls == ["_tokenize_prompts", "_generate_single_turn"] * 2


@pytest.mark.parametrize("settings", [{}, environment(Machine())], ids=["bare", "worker"])
def test_a_trainer_tells_nobody_that_it_runs(settings: dict[str, str]) -> None:
    """TRL asks huggingface_hub, which has to say no in every process that trains."""
    code = (
        "import factory.stages.grpo.train, huggingface_hub.constants as c;"
        "assert c.HF_HUB_DISABLE_TELEMETRY is True"
    )
    bare = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **settings}
    subprocess.run([sys.executable, "-c", code], check=True, env=bare, cwd=FACTORY.parent)
