"""Which rank a process is: what may be asked for, what is believed, and what stops a run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from building import wait_until_gone

from factory.building import worker
from factory.building.launch import local, measure, peaks
from factory.building.pipeline import _seconds
from factory.building.recipe import load_machine
from factory.building.worker import Job
from factory.core.errors import EngineError, RecipeError
from factory.core.machine import Machine
from factory.core.ranks import Rank, enter, this_rank, whole_weights, without_ranks
from factory.stages import STAGES

POD = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
    "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "job",
    "PET_NNODES": "4", "ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "bf16",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_RANK": "1", "MPI_LOCALNRANKS": "2", "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2", "VLLM_DP_RANK": "1",
}  # fmt: skip
TWO_RANKS = Machine(device="cpu", launcher="accelerate", processes=2)


def pretend_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in POD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ("processes: 2", "processes: 2 needs launcher: accelerate"),
        ("launcher: local\nprocesses: 3", "processes: 3 needs launcher: accelerate"),
        ("accelerate_config: fsdp.yaml", "accelerate_config: fsdp.yaml needs launcher: accelerate"),
        ("processes: 8\naccelerate_config: a.yaml", "write launcher: accelerate beside it"),
    ],
)
def test_ranks_that_nothing_would_start_are_refused(
    tmp_path: Path, settings: str, wrong: str
) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(f"device: cpu\n{settings}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=re.escape(wrong)):
        load_machine(path)
    path.write_text(f"launcher: accelerate\n{settings.replace('launcher: local', '')}\n")
    assert load_machine(path).launcher == "accelerate"


def test_a_worker_is_told_how_it_is_started_and_not_what_the_file_says() -> None:
    assert TWO_RANKS.for_worker(in_ranks=True) is TWO_RANKS
    drawing = TWO_RANKS.for_worker(in_ranks=False)
    assert (drawing.launcher, drawing.processes) == ("local", 1)
    single = TWO_RANKS.model_copy(update={"processes": 1})
    assert single.for_worker(in_ranks=True).launcher == "local"
    named = single.model_copy(update={"accelerate_config": "fsdp.yaml"})
    assert named.for_worker(in_ranks=True).launcher == "accelerate"
    assert named.for_worker(in_ranks=False).accelerate_config is None
    assert {name for name, stage in STAGES.items() if stage.in_ranks} == {
        "distill", "grpo", "reward_model", "sft",
    }  # fmt: skip


def test_nothing_is_left_by_which_a_library_would_take_a_process_for_a_rank() -> None:
    beside = {"PATH": "/bin", "OMP_NUM_THREADS": "1", "HOME": "/root", "SLURM_JOB_ID": "7"}
    assert without_ranks({**POD, **beside}) == beside


def test_every_variable_of_ranks_that_accelerate_and_torch_read_is_stripped() -> None:
    import accelerate.utils.environment
    from torch.distributed.elastic.agent.server import local_elastic_agent

    source = Path(str(accelerate.utils.environment.__file__)).read_text(encoding="utf-8")
    names = set(re.findall(r'"([A-Z0-9_]*(?:RANK|RANKID|SIZE|NRANKS))"', source))
    source = Path(str(local_elastic_agent.__file__)).read_text(encoding="utf-8")
    names |= set(re.findall(r'^ +"([A-Z_]+)": ', source, re.MULTILINE)) - {"OMP_NUM_THREADS"}
    assert {"OMPI_COMM_WORLD_RANK", "PMI_SIZE", "RANK", "TORCHELASTIC_RUN_ID"} <= names
    assert {
        name for name in without_ranks(dict.fromkeys(names, "1")) if "NCCL" not in name
    } == set()


def test_a_local_worker_forgets_the_ranks_of_its_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_pod(monkeypatch)
    assert this_rank() == Rank(1, 1, 2)
    enter(Machine())
    assert this_rank() == Rank()
    assert not os.environ.keys() & POD.keys()


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ({}, "as rank 0 of 1"),
        ({"RANK": "0", "WORLD_SIZE": "4"}, "as rank 0 of 4"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "as rank 2 of 2"),
    ],
)
def test_a_rank_among_others_than_were_launched_does_not_begin(
    monkeypatch: pytest.MonkeyPatch, ranks: dict[str, str], reason: str
) -> None:
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError, match=f"processes: 2, but accelerate .* {reason}"):
        enter(TWO_RANKS)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    enter(TWO_RANKS)
    assert this_rank().index == 1


def test_a_rank_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(EngineError, match="WORLD_SIZE: found 'two'"):
        this_rank()


def test_models_opened_by_hand_hold_their_weights_on_every_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    monkeypatch.setenv(name, "true")
    with whole_weights():
        assert os.environ[name] == "false"
    assert os.environ[name] == "true"
    monkeypatch.delenv(name)
    with whole_weights():
        assert name not in os.environ


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, "0"), ("3,5", "3"), ("", ""), ("GPU-a,GPU-b", "GPU-a")]
)
def test_a_local_worker_that_trains_sees_one_gpu_and_one_that_draws_all(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local._gpus(trains=True) == {"CUDA_VISIBLE_DEVICES": expected}
    assert local._gpus(trains=False) == {}


def test_without_a_config_accelerate_gets_one_that_starts_ranks_on_cpus_too(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    command = local._accelerate(TWO_RANKS, tmp_path / "job.json")
    assert command[command.index("--num_processes") + 1] == "2"
    config: Any = load_config_from_file(command[command.index("--config_file") + 1])
    assert config.distributed_type == DistributedType.MULTI_GPU
    assert (config.use_cpu, config.num_processes, config.mixed_precision) == (True, 2, "no")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("num_processes: 8", "processes: 2, but .* has num_processes: 8"),
        ("[1]", "must be a mapping"),
        ("a: [", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_an_accelerate_config_for_another_number_of_ranks_is_refused(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "accelerate.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=reason):
        local._check_config(TWO_RANKS.model_copy(update={"accelerate_config": str(path)}))
    path.write_text("distributed_type: FSDP\nnum_processes: 2\n", encoding="utf-8")
    local._check_config(TWO_RANKS.model_copy(update={"accelerate_config": str(path)}))


def test_measurements_run_outside_the_ranks_of_a_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_pod(monkeypatch)
    seen: list[dict[str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **rest: Any) -> SimpleNamespace:
        seen.append(env)
        rates = {"1": {"float32": 1.0, "rounded": 1.0}}
        peak = {"flops_per_second": 1.0, "bytes_per_second": 1.0, "load": 0.0}
        answer = rates if "factory.building.launch.measure" in command else peak
        return SimpleNamespace(returncode=0, stdout=json.dumps(answer))

    monkeypatch.setattr(subprocess, "run", run)
    measure.resolve_matmul(Machine(device="cpu", threads=1), tmp_path)
    peaks.processor_peaks(Machine(device="cpu", threads=1, matmul="float32"), tmp_path)
    assert len(seen) == 2
    assert all(not env.keys() & POD.keys() and "PATH" in env for env in seen)


def test_the_error_of_another_rank_is_told_and_its_clock_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "a.run"
    (run / "scratch").mkdir(parents=True)
    events = run / "metrics.jsonl"
    events.write_text('{"event": "progress", "at": 5.0}\n', encoding="utf-8")
    monkeypatch.setattr(worker, "die_with_parent", lambda: None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    job = Job(
        stage="sft", config={}, inputs={}, out=str(tmp_path), run=str(run), seed=1,
        machine=TWO_RANKS, builder=os.getppid(),
    )  # fmt: skip
    (run / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    assert worker.main(run / "job.json") == 2
    row = json.loads(events.read_text(encoding="utf-8").splitlines()[-1])
    assert (row["event"], row["rank"], row["kind"]) == ("error", 1, "EngineError")
    assert "as rank 1 of 3" in row["message"]
    assert _seconds(run) == 5.0


def test_a_launcher_and_its_ranks_die_with_a_build_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from factory.building.launch.local import _Launched;"
        f"print(_Launched(['sleep', '60'], Path({str(tmp_path / 'log')!r}), {{}})._process.pid);"
        "sys.stdout.flush(); time.sleep(60)"
    )
    build = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert build.stdout is not None
    launcher = int(build.stdout.readline())
    os.kill(launcher, 0)
    build.kill()
    build.wait()
    wait_until_gone([launcher])


def trainer(*, seen: int = 1, gpus: int = 0) -> Any:
    accelerator = SimpleNamespace(num_processes=seen, process_index=0, device="cpu")
    return SimpleNamespace(accelerator=accelerator, args=SimpleNamespace(n_gpu=gpus))


def test_a_trainer_that_sees_another_world_than_was_launched_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from factory.trainers.running import require_ranks

    require_ranks(trainer(), 1)
    require_ranks(trainer(gpus=1), 1)
    with pytest.raises(EngineError, match=r"processes: 2, but rank 0 .* one of 1 .* sees 1"):
        require_ranks(trainer(), 2)
    with pytest.raises(EngineError, match="sees 2 GPUs and would divide"):
        require_ranks(trainer(gpus=2), 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EngineError, match=r"processes: 2, but rank 0 .* one of 2 .* sees 1"):
        require_ranks(trainer(), 2)
    with pytest.raises(EngineError, match=r"processes: 1, but rank 0 .* one of 2 .* sees 2"):
        require_ranks(trainer(seen=2), 1)


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        (None, ["model.safetensors", "optimizer.pt"]),
        ("FULL_STATE_DICT", ["pytorch_model_fsdp.bin", "optimizer.bin"]),
        ("SHARDED_STATE_DICT", ["pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata"]),
    ],
)
def test_a_checkpoint_of_another_sharding_is_refused_by_name(
    tmp_path: Path, kind: str | None, files: list[str]
) -> None:
    """transformers takes the weights that it finds, and begins Adam anew without a word."""
    from factory.trainers.sharding import require_same_sharding

    checkpoint = tmp_path / "checkpoint-3"
    for name in files:
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).touch()
    for own in (None, "FULL_STATE_DICT", "SHARDED_STATE_DICT"):
        plugin = SimpleNamespace(state_dict_type=SimpleNamespace(name=own))
        state = SimpleNamespace(fsdp_plugin=plugin if own else None)
        sharded: Any = SimpleNamespace(
            is_deepspeed_enabled=False, is_fsdp_enabled=own is not None,
            accelerator=SimpleNamespace(state=state),
        )  # fmt: skip
        if own == kind:
            require_same_sharding(sharded, checkpoint)
            continue
        with pytest.raises(
            EngineError, match=f"checkpoint-3: was written with train: .*{tmp_path}"
        ):
            require_same_sharding(sharded, checkpoint)


@pytest.mark.parametrize(
    ("settings", "ranks"),
    [
        ("tensor_parallel_rl: 2", 1),
        ("launcher: accelerate\nprocesses: 6\ntensor_parallel_rl: 4", 6),
        ("launcher: slurm\nprocesses: 6\nslurm: {nodes: 2, gpus: 3}\ntensor_parallel_rl: 2", 3),
    ],
)
def test_engines_beside_trainers_are_those_of_whole_ranks_of_a_node(
    tmp_path: Path, settings: str, ranks: int
) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(settings, encoding="utf-8")
    with pytest.raises(RecipeError, match=f"does not divide the ranks of a node, {ranks};"):
        load_machine(path)
    path.write_text(re.sub(r"(_rl: )\d", rf"\g<1>{ranks}", settings), encoding="utf-8")
    assert load_machine(path).for_worker(in_ranks=False).tensor_parallel_rl == 1
