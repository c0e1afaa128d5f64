"""The job of a build: what is asked of Slurm, what the script says, and what is refused."""

import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from factory.building.launch.local import Launcher
from factory.building.recipe import load_machine
from factory.cli import app
from factory.core import slurm
from factory.core.errors import EngineError, RecipeError
from factory.core.interpreter import program_command
from factory.core.machine import Machine
from factory.core.ranks import enter, is_launched
from factory.core.slurm import Allocation, Slurm
from factory.stages import STAGES

SETTINGS = Slurm(
    nodes=2, gpus=8, cores=16, partition="gpu", account="us", time="1-12:00:00",
    lines=("--qos=long",), setup=("module load cuda",), stop_seconds=90,
)  # fmt: skip
MACHINE = """
device: cpu
launcher: slurm
processes: 4
slurm: {nodes: 2, gpus: 2, time: "00:30:00"}
"""


def script(settings: Slurm = SETTINGS, *, on_gpu: bool = True) -> str:
    return slurm.batch_script(
        settings, name="r1", arguments=["build", "my recipe.yaml"], on_gpu=on_gpu,
        folder=Path("/home/me"), log=Path("/store/slurm/r1-%j.txt"),
    )  # fmt: skip


def test_a_script_asks_for_what_the_machine_file_says() -> None:
    lines = script().splitlines()
    assert [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")] == [
        "--job-name=r1", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=16",
        "--gpus-per-node=8", "--partition=gpu", "--account=us", "--time=1-12:00:00", "--requeue",
        "--open-mode=append", "--signal=B:USR1@90", "--output=/store/slurm/r1-%j.txt", "--qos=long",
    ]  # fmt: skip
    assert lines.index("module load cuda") < lines.index(
        shlex.join([*program_command("build", "my recipe.yaml")]) + " &"
    )
    full = script(Slurm(), on_gpu=False)
    assert "--exclusive" in full
    assert "--gpus-per-node" not in full


@pytest.mark.parametrize(
    ("status", "nodes", "sign", "expected"),
    [
        (0, "all", "", (0, "")),
        (2, "all", "", (2, "")),
        (2, "lost", "", (0, "a node is lost: the job goes back into the queue\nrequeue 7")),
        (130, "all", "USR1", (0, "the time limit is near: the job goes back into the queue")),
        (130, "all", "TERM", (143, "")),
        (0, "none", "", (1, "error: not all 2 nodes of n[1-2] joined in 600 s")),
    ],
)
def test_what_a_script_does_when_its_build_ends_or_is_told_to(
    tmp_path: Path, status: int, nodes: str, sign: str, expected: tuple[int, str]
) -> None:
    """The script runs, with a build and with commands of Slurm's that only say what is done."""
    requested = tmp_path / "asked"
    for name, text in {
        "srun": f"echo >>{requested}; case {nodes} in all) ;; none) exit 1;; "
        f"lost) [ $(wc -l <{requested}) = 1 ];; esac",
        "scontrol": 'echo "$@"',
        "build": "trap 'echo checkpoint; exit 130' TERM; "
        + (f"kill -{sign} $PPID; for i in $(seq 100); do sleep 0.05; done; " if sign else "")
        + f"exit {status}",
    }.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    settings = Slurm(nodes=2, cores=1)
    text = slurm.batch_script(
        settings, name="r", arguments=[], on_gpu=False, folder=tmp_path, log=tmp_path / "log"
    ).replace(shlex.join(program_command()), str(tmp_path / "build"))
    done = subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, timeout=60,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
             "SLURM_JOB_NODELIST": "n[1-2]"},
    )  # fmt: skip
    assert (done.returncode, expected[1] in done.stdout) == (expected[0], True), done.stdout
    assert ("requeue 7" in done.stdout) == (expected[0] == 0 and status != 0)
    assert ("checkpoint" in done.stdout) == bool(sign)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("launcher: slurm\nprocesses: 2", "launcher: slurm and the block `slurm` come together"),
        ("slurm: {nodes: 2}", "come together"),
        (MACHINE.replace("4", "8"), "are 4 ranks, but processes is 8; write processes: 4"),
        (MACHINE.replace("00:30:00", "30 min"), "slurm.time"),
        (MACHINE + "accelerate_config: a.yaml", "accelerate_config is read by launcher"),
        (MACHINE.replace("nodes: 2, ", "nodes: 0, "), "slurm.nodes"),
        (MACHINE.replace("time:", "partition: 'a b', time:"), "slurm.partition"),
        (MACHINE.replace("time:", "nodse: 1, time:"), "slurm.nodse: unknown key"),
    ],
)
def test_a_machine_file_that_asks_for_no_possible_job_is_refused(
    tmp_path: Path, text: str, wrong: str
) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=re.escape(wrong)) as raised:
        load_machine(path)
    # In the words of the check alone: not pydantic's, and not with all that the file holds.
    assert re.search(r": :|[Vv]alue error|\{\\?\"", str(raised.value)) is None


def test_only_stages_in_ranks_know_the_job(tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE, encoding="utf-8")
    machine = load_machine(path)
    assert is_launched(machine.for_worker(in_ranks=True))
    alone = machine.for_worker(in_ranks=False)
    assert Machine.model_validate_json(alone.model_dump_json()) == alone
    assert (alone.launcher, alone.processes, alone.slurm) == ("local", 1, None)


def test_a_build_outside_its_job_or_in_another_one_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(device="cpu", launcher="slurm", processes=2, slurm=Slurm(nodes=2))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(EngineError, match=r"no job of Slurm's .* `factory submit`"):
        Launcher(machine, [STAGES["sft"]], log=tmp_path / "log")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    with pytest.raises(EngineError, match=r"slurm\.nodes: 2, but job 7 has 3"):
        slurm.allocation(Slurm(nodes=2), os.environ)


def test_ranks_meet_on_the_first_node_at_a_free_port() -> None:
    where = Allocation(job="12345", first="n1")
    command = slurm.ranks_command(
        SETTINGS, where, "factory.building.worker", "/store/a.run/job.json"
    )
    assert command[:2] == ["srun", "--overlap"]
    assert {"--nodes=2", "--ntasks=2", "--nnodes=2", "--nproc-per-node=8"} <= {*command}
    meeting = next(word for word in command if word.startswith("--rdzv-endpoint"))
    assert re.fullmatch(r"--rdzv-endpoint=n1:223[456]\d", meeting)
    assert command[-3:] == ["-m", "factory.building.worker", "/store/a.run/job.json"]


def test_a_port_that_is_taken_is_named_or_passed_over() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match=rf"slurm\.port: {port} is taken"):
            slurm.free_port(port, "1")
    assert slurm.free_port(port, "1") == port


def test_a_rank_forgets_which_task_of_slurms_its_launcher_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(device="cpu", launcher="slurm", processes=2, slurm=Slurm(nodes=2))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
                        "SLURM_JOB_ID": "7"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    enter(machine)
    assert "SLURM_PROCID" not in os.environ
    assert os.environ["SLURM_JOB_ID"] == "7"
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(EngineError, match=r"slurm started this worker as rank 0 of 1.* by hand"):
        enter(machine)


def test_submit_writes_the_script_and_nothing_else_when_it_is_dry(tmp_path: Path) -> None:
    machine, store = tmp_path / "machine.yaml", tmp_path / "store"
    machine.write_text(MACHINE, encoding="utf-8")
    arguments = ["submit", "recipes/smoke.yaml", "--machine", str(machine), "--store", str(store)]
    done = CliRunner().invoke(app, [*arguments, "--until", "zero", "--dry-run"])
    assert done.exit_code == 0, done.output
    path = store / "slurm" / "smoke.sbatch"
    assert [p for p in store.rglob("*") if p.is_file()] == [path]
    assert f"next: sbatch {path}" in done.output
    line = next(line for line in path.read_text().splitlines() if line.endswith(" &"))
    words = shlex.split(line.removesuffix(" &"))
    begin = program_command("build", "recipes/smoke.yaml")
    assert words[: len(begin)] == begin
    given = {"--until": "zero", "--machine": str(machine), "--store": str(store)}
    assert {key: words[words.index(key) + 1] for key in given} == given
    assert len(words) == len(begin) + 7
    assert "--plain" in words
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0


def test_submit_without_a_job_in_the_machine_file_says_what_to_write(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["submit", "recipes/smoke.yaml", "--store", str(tmp_path)])
    assert done.exit_code == 2
    assert "launcher: found local, but a job needs slurm" in done.output


def test_submit_where_there_is_no_slurm_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="there is no sbatch on this machine"):
        slurm.submit(tmp_path / "a.sbatch")
