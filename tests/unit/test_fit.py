"""What is planned fits, or is refused with the cheapest changes that make it fit."""

import io
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from factory.building.fit import Misfit, misfits, rank_faults, require_devices, require_fit
from factory.building.plan import Step, make_plan
from factory.building.pricing import Bill, bill
from factory.building.recipe import load_machine, load_recipe, recipe_from
from factory.cli import app
from factory.core.errors import EngineError, RecipeError
from factory.core.machine import DevicePeaks, Machine
from factory.cost import context
from factory.trainers.arguments import micro_batch_rows
from factory.ui.console import Console
from factory.ui.cost import show_cost

ROOT = Path(__file__).resolve().parents[2]
MACHINES = ROOT / "recipes" / "machines"
RECIPES = sorted(
    path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "machines"
)
SUMS = {"kind": "problems", "sources": [{"type": "world", "family": "add", "train": 40}]}
WORKED = {"kind": "written", "path": "recipes/data/worked_sums.jsonl", "unlike": "sums"}


def plan(model: str, **tuned: Any) -> tuple[Step, ...]:
    stages = {
        "base": {"kind": "model", "source": {"type": "hub", "id": model}},
        "sums": SUMS, "worked": WORKED,
        "tuned": {"kind": "sft", "model": "base", "traces": "worked", **tuned},
    }  # fmt: skip
    return make_plan(recipe_from({"name": "test", "stages": stages}, "test"))


def of(machine: str | Machine, model: str, store: Path, **tuned: Any) -> Bill:
    if isinstance(machine, str):
        machine = load_machine(MACHINES / f"{machine}.yaml")
    return bill(plan(model, **tuned), store, machine)


def only(priced: Bill) -> Misfit:
    (misfit,) = misfits(priced)
    return misfit


def misfits_with(path: Path, file: Path, options: Sequence[str], store: Path) -> list[str]:
    """Stages that do not fit once the options are pasted."""
    words = shlex.split(" ".join(options))
    pairs = list(zip(words[::2], words[1::2], strict=True))
    assert {option for option, _ in pairs} <= {"--set", "--machine"}
    typed = [value for option, value in pairs if option == "--set"]
    machines = [ROOT / value for option, value in pairs if option == "--machine"]
    steps = make_plan(load_recipe(path, typed))
    priced = bill(steps, store, load_machine([file, *machines][-1], typed))
    return [row.step.name for row in priced.misfits]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_the_machine_that_its_header_names(path: Path, tmp_path: Path) -> None:
    """A line `# Machine: FILE`, with options that a builder adds; or the file refuses it, and
    every stage says what would make it fit."""
    header = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert header is not None
    named = re.search(r"^# Machine: (.*(?:\n#   --set.*)*)", header.group(), re.MULTILINE)
    assert named is not None, f"{path}: its header must name a machine file"
    file, *rest = named.group(1).replace("#", "").split()
    refuses = rest[:1] == ["refuses"]
    typed = [] if refuses else rest[1::2]
    machine = load_machine(ROOT / file, typed)
    if machine.device == "cpu":  # whatever this machine has
        peaks = DevicePeaks(gflops=300, gigabytes_per_second=20, memory_gib=16)
        machine = machine.model_copy(update={"peaks": peaks})
    priced = bill(make_plan(load_recipe(path, typed)), tmp_path, machine)
    assert priced.missing == []
    if refuses:
        assert priced.misfits
        still: dict[tuple[str, ...], list[str]] = {}
        for misfit in misfits(priced):
            fixes = (misfit.same, misfit.other, misfit.machine, misfit.smaller)
            assert any(fixes)
            for fix in filter(None, fixes):
                if fix.options not in still:
                    still[fix.options] = misfits_with(path, ROOT / file, fix.options, tmp_path)
                assert misfit.name not in still[fix.options]
    else:
        assert [line for misfit in misfits(priced) for line in misfit.lines()] == []


@pytest.mark.parametrize(
    ("machine", "model", "same", "other"),
    [
        # By hand, see tests/golden/test_memory.py: 112.7 GiB on eight devices of 80 GB.
        (
            "node8", "Qwen/Qwen2.5-32B", "--set machine.train.offload=all",
            "--set stages.tuned.lora.rank=16",
        ),
        # The longest context of adapters on 24 GB is 12,288, on 80 GB (32B) 10,240.
        ("gpu24", "Qwen/Qwen2.5-7B", None, "lora.rank=16"),
        ("gpu24", "Qwen/Qwen2.5-1.5B", "machine.train.offload=all", "lora.rank=16"),
        ("gpu", "Qwen/Qwen2.5-1.5B", "--set machine.micro_batch=1", "--set stages.tuned.lora"),
    ],
)  # fmt: skip
def test_the_cheapest_changes_are_proposed(
    machine: str, model: str, same: str | None, other: str, tmp_path: Path
) -> None:
    misfit = only(of(machine, model, tmp_path))
    if same is not None:
        assert misfit.same is not None and same in " ".join(misfit.same.options)
    if misfit.other is not None:
        assert other in " ".join(misfit.other.options)


def test_a_change_that_is_not_needed_is_not_proposed(tmp_path: Path) -> None:
    same = only(of("gpu", "Qwen/Qwen2.5-1.5B", tmp_path)).same
    assert same is not None and same.options == ("--set machine.micro_batch=1",)
    assert f"{same.gib:.1f}" == "37.7"  # by hand, see tests/golden/test_memory.py


@pytest.mark.parametrize("machine", ["gpu24", "gpu", "node8"])
@pytest.mark.parametrize(
    "model",
    ["Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-32B", "meta-llama/Llama-3.3-70B"],
)
def test_what_is_proposed_passes_when_it_is_pasted(
    machine: str, model: str, tmp_path: Path
) -> None:
    """By the command line's own reading; and what says "same model" keeps the fingerprint."""
    recipe = tmp_path / "recipe.yaml"
    stages = {
        "base": {"kind": "model", "source": {"type": "hub", "id": model}},
        "sums": SUMS, "worked": WORKED,
        "tuned": {"kind": "sft", "model": "base", "traces": "worked"},
    }  # fmt: skip
    recipe.write_text(json.dumps({"name": "test", "stages": stages}), encoding="utf-8")
    path = MACHINES / f"{machine}.yaml"
    before = make_plan(load_recipe(recipe))
    for misfit in misfits(bill(before, tmp_path, load_machine(path))):
        for kind, remedy in (("same", misfit.same), ("other", misfit.other)):
            if remedy is None:
                continue
            typed = shlex.split(" ".join(remedy.options))
            assert set(typed[::2]) == {"--set"}
            steps = make_plan(load_recipe(recipe, typed[1::2]))
            priced = bill(steps, tmp_path, load_machine(path, typed[1::2]))
            assert priced.misfits == []
            is_same = [step.fingerprint for step in steps] == [s.fingerprint for s in before]
            assert is_same == (kind == "same")


def test_a_build_that_does_not_fit_makes_nothing(tmp_path: Path) -> None:
    priced = of("gpu24", "Qwen/Qwen2.5-1.5B", tmp_path)
    with pytest.raises(RecipeError, match=r"stages\.tuned: does not fit: 37\.7 GiB a device"):
        require_fit(priced)
    require_fit(replace(priced, machine=priced.machine.model_copy(update={"ignore_fit": True})))
    recipe, machine = tmp_path / "recipe.yaml", tmp_path / "machine.yaml"
    stages = {
        "base": {"kind": "model", "source": {"type": "tiny", "architecture": "llama"}},
        "sums": SUMS, "worked": WORKED,
        "tuned": {"kind": "sft", "model": "base", "traces": "worked"},
    }  # fmt: skip
    recipe.write_text(json.dumps({"name": "test", "stages": stages}), encoding="utf-8")
    small = {
        "device": "cpu", "threads": 1, "matmul": "float32",
        "peaks": {"gflops": 10, "gigabytes_per_second": 10, "memory_gib": 0.01},
    }  # fmt: skip
    machine.write_text(json.dumps(small), encoding="utf-8")
    store = tmp_path / "store"
    options = ["--machine", str(machine), "--store", str(store)]
    result = CliRunner().invoke(app, ["build", str(recipe), *options, "--plain"])
    assert result.exit_code == 2
    assert "stages.tuned: does not fit" in result.output
    assert "--ignore-fit" in result.output
    assert not list(store.glob("*/")) or not list(store.glob("tuned-*"))
    shown = CliRunner().invoke(app, ["plan", str(recipe), "--cost", *options])
    assert shown.exit_code == 0
    assert "stages.tuned: does not fit" in shown.output


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"kind": "sft", "traces": "worked", "batch": 12},
            r"batch: 12 rows cannot be cut .*make batch 8 or 16$",
        ),
        (
            {"kind": "grpo", "problems": "sums", "steps": 1, "prompts": 12, "max_new_tokens": 64},
            "prompts: 12 questions cannot be shared evenly by 8 processes; make it 8 or 16",
        ),
        (
            {
                "kind": "grpo", "problems": "sums", "steps": 1, "prompts": 16, "kl": 0,
                "max_new_tokens": 64, "dynamic_sampling": {"max_rounds": 1, "rest_steps": 1},
            },
            "dynamic_sampling: a replaced group is drawn for all ranks",
        ),
        (
            {"kind": "sft", "traces": "worked", "batch": 16, "lora": {"base": "nf4"}},
            r"lora\.base: nf4: packed weights are not divided among ranks",
        ),
    ],
)  # fmt: skip
def test_what_ranks_cannot_share_is_refused_before_anything_is_made(
    stage: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = {"kind": "model", "source": {"type": "hub", "id": "Qwen/Qwen2.5-0.5B"}}
    stages = {"base": model, "sums": SUMS, "worked": WORKED, "tuned": {**stage, "model": "base"}}
    steps = make_plan(recipe_from({"name": "test", "stages": stages}, "test"))
    machine = load_machine(MACHINES / "node8.yaml")
    with pytest.raises(RecipeError, match=rf"stages\.tuned\.{message}"):
        require_fit(bill(steps, tmp_path, machine))
    alone = load_machine(MACHINES / "gpu.yaml")
    assert rank_faults(steps, alone) == []


def test_a_batch_that_divides_among_ranks_and_not_in_micro_batches_names_one_that_does() -> None:
    machine = Machine(launcher="accelerate", processes=3, micro_batch=8)
    assert micro_batch_rows(30, machine.model_copy(update={"micro_batch": 5})) == 5
    with pytest.raises(RecipeError, match="batch 24 or 48, or lower the machine's micro_batch"):
        micro_batch_rows(30, machine)
    with pytest.raises(RecipeError, match=r"make batch 3$"):
        micro_batch_rows(2, machine)


@pytest.mark.parametrize("machine", ["gpu24", "node8", "cluster", "unpriced"])
def test_a_machine_file_for_gpus_is_refused_before_anything_is_made_where_there_are_none(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the stages before the first that trains were made first, which may take hours."""
    import torch

    monkeypatch.setattr(Machine, "may_take_gpu", lambda self: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe, file = tmp_path / "recipe.yaml", MACHINES / f"{machine}.yaml"
    stages = {
        "base": {"kind": "model", "source": {"type": "tiny", "architecture": "llama"}},
        "sums": SUMS, "worked": WORKED,
        "tuned": {"kind": "sft", "model": "base", "traces": "worked"},
    }  # fmt: skip
    recipe.write_text(json.dumps({"name": "test", "stages": stages}), encoding="utf-8")
    if machine == "unpriced":
        file = tmp_path / "machine.yaml"
        file.write_text("device: cuda\nlauncher: accelerate\nprocesses: 2\n", encoding="utf-8")
    words = ["build", str(recipe), "--machine", str(file), "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(app, [*words, "--plain"])
    assert result.exit_code == 2
    assert "device: cuda, but torch sees no CUDA device" in result.output
    assert list((tmp_path / "store").glob("*.run")) == []
    if machine == "unpriced":
        file.write_text("device: cuda\nlauncher: accelerate\nprocesses: 7\n", encoding="utf-8")
        result = CliRunner().invoke(app, [*words, "--plain"])
        assert "stages.tuned.batch: 64 rows cannot be cut" in result.output


def test_stages_without_a_device_are_made_where_a_machine_file_for_gpus_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "may_take_gpu", lambda self: False)
    steps = plan("Qwen/Qwen2.5-0.5B")
    machine = load_machine(MACHINES / "gpu.yaml")
    require_devices([step for step in steps if step.name != "tuned"], tmp_path, machine)
    require_devices(steps, tmp_path, Machine(device="auto"))


@pytest.mark.parametrize(
    ("typed", "has_ray", "idle"),
    [
        ([], True, 0), ([], False, 7), (["machine.cluster.engines=1"], True, 7),
        (["machine.tensor_parallel=2", "machine.cluster.engines=3"], True, 2),
        (["machine.replicas.concurrency=64"], False, 0), (["machine.replicas.count=6"], True, 2),
    ],
)  # fmt: skip
def test_gpus_that_idle_while_a_stage_draws_are_said_and_counted(
    typed: list[str], has_ray: bool, idle: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "find_spec", lambda name: has_ray or None)
    machine = load_machine(MACHINES / "node8.yaml", typed)
    screen = io.StringIO()
    show_cost(plan("Qwen/Qwen2.5-0.5B"), tmp_path, machine, Console(width=300, file=screen))
    lines = [line for line in screen.getvalue().splitlines() if line.startswith("Idle: ")]
    assert [line.split(" of ")[0] for line in lines] == ([f"Idle: {idle}"] if idle else [])
    stages = {
        "base": {"kind": "model", "source": {"type": "hub", "id": "Qwen/Qwen2.5-0.5B"}},
        "sums": SUMS, "drawn": {"kind": "generate", "model": "base", "problems": "sums"},
    }  # fmt: skip
    steps = make_plan(recipe_from({"name": "test", "stages": stages}, "test"))
    samples = bill(steps, tmp_path, machine).rows[-1].context
    assert samples is not None
    assert samples.engines * machine.tensor_parallel == 8 - idle


@pytest.mark.parametrize(("gib", "is_enough"), [(79.2, True), (80.0, True), (39.6, False)])
def test_a_gpu_with_less_memory_than_was_planned_is_refused(
    gib: float, is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factory.trainers import running

    machine = load_machine(MACHINES / "gpu.yaml")
    properties = SimpleNamespace(total_memory=int(gib * 2**30))
    monkeypatch.setattr(Machine, "takes_gpu", lambda self: True)
    monkeypatch.setattr(running.torch.cuda, "get_device_properties", lambda index: properties)
    if is_enough:
        return running.require_memory(machine)
    with pytest.raises(EngineError, match=r"memory_gib: 79\.2, but the GPU has 39\.6 GiB"):
        running.require_memory(machine)
    running.require_memory(machine.model_copy(update={"ignore_fit": True}))
    return None


def test_settings_of_the_machine_can_be_typed(tmp_path: Path) -> None:
    typed = ["machine.micro_batch=2", "machine.train.micro_rows=3", "stages.tuned.epochs=2"]
    machine = load_machine(MACHINES / "node8.yaml", typed)
    assert (machine.micro_batch, machine.train.micro_rows) == (2, 3)
    assert machine.train.is_sharded
    with pytest.raises(RecipeError, match=r"node8\.yaml: train\.shards"):
        load_machine(MACHINES / "node8.yaml", ["machine.train.shards=fsdp2"])
    with pytest.raises(RecipeError, match="must look like machine"):
        load_machine(None, ["machine.micro_batch"])
    with pytest.raises(RecipeError, match="type --ignore-fit"):
        load_machine(None, ["machine.ignore_fit=true"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {"shard": "fsdp2"}}, "launcher: local starts none"),
        ({"train": {"offload": "all"}}, "offload: all is for shards"),
        ({"train": {"checkpoint": "sharded"}}, "checkpoint: sharded is for shards"),
        ({"train": {"reduce": "bfloat16"}}, "reduce: bfloat16 is for shards"),
        (
            {"launcher": "accelerate", "accelerate_config": "x", "train": {"shard": "fsdp2"}},
            "leave one of them out",
        ),
    ],
)  # fmt: skip
def test_a_machine_file_that_shards_nothing_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Machine.model_validate(settings)
