"""The smoke recipe from the command line: made, reused, partly made again, reported."""

import json
import resource
from pathlib import Path

import pytest
from building import SMOKE, Build, sealed

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.core.artifacts import verify

ARCHITECTURES = ("llama", "qwen2")
SLOWER = "stages.student.learning_rate=1e-4"
REUSE_SECONDS = 5.0


def architecture_of(name: str) -> str:
    return f"stages.base.source.architecture={name}"


def kept_and_made(plan_output: str) -> tuple[set[str], set[str]]:
    """Stages that `factory plan` says are reused, and those to be made."""
    rows = [line.split() for line in plan_output.splitlines()]
    rows = [row for row in rows if row and row[0].isdecimal() and row[-1] in ("reused", "made")]
    fates = {row[1]: row[-1] for row in rows}
    return (
        {name for name, fate in fates.items() if fate == "reused"},
        {name for name, fate in fates.items() if fate == "made"},
    )


def stages_told(output: str, what: str) -> list[str]:
    """Stages of the lines `[ 3/24] name: <what> ...`."""
    lines = [line.partition("] ")[2] for line in output.splitlines() if line.startswith("[")]
    return [line.partition(":")[0] for line in lines if line.partition(": ")[2].startswith(what)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The whole recipe on each architecture; both at once, one thread each. The first as from a
    shell, imports and all."""
    folder = tmp_path_factory.mktemp("builds")
    builds = {
        name: Build(folder / name, "--set", architecture_of(name), is_warm=name != ARCHITECTURES[0])
        for name in ARCHITECTURES
    }
    for name, build in builds.items():
        output = build.succeed()
        names = [step.name for step in make_plan(load_recipe(SMOKE, [architecture_of(name)]))]
        assert stages_told(output, "made in") == names
    return {name: build.store for name, build in builds.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_stage_is_made_and_whole(stores: dict[str, Path], architecture: str) -> None:
    plan = make_plan(load_recipe(SMOKE, [architecture_of(architecture)]))
    made = sealed(stores[architecture])
    assert {step.name: step.fingerprint for step in plan} == {
        name: artifact.fingerprint for name, artifact in made.items()
    }
    for artifact in made.values():
        verify(artifact)
    config = json.loads(made["student"].file("config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == architecture
    assert not list(stores[architecture].glob("*.partial"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_changed_the_weights(stores: dict[str, Path], architecture: str) -> None:
    made = sealed(stores[architecture])
    weights = {
        made[name].manifest.files["model.safetensors"].sha256
        # A random model earns no reward: without one, RL rightly changes nothing.
        for name in ("base", "cold", "teacher", "student")
    }
    assert len(weights) == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_report_is_written_in_its_three_forms(
    stores: dict[str, Path], architecture: str
) -> None:
    folder = stores[architecture] / "reports" / "smoke"
    for name in ("report.html", "report.md", "report.json"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "eval_student" in text or "student" in text
    again = load_recipe(folder / "recipe.json")
    plan = make_plan(load_recipe(SMOKE, [architecture_of(architecture)]))
    assert [s.fingerprint for s in make_plan(again)] == [s.fingerprint for s in plan]


def test_a_second_build_reuses_everything_at_once_and_says_so(stores: dict[str, Path]) -> None:
    seconds = []
    for _ in range(2):
        before = processor_seconds()
        output = Build(stores["llama"], "--set", architecture_of("llama")).succeed()
        seconds.append(processor_seconds() - before)
    assert min(seconds) < REUSE_SECONDS
    names = [step.name for step in make_plan(load_recipe(SMOKE))]
    assert stages_told(output, "reused") == names
    assert stages_told(output, "made in") == []


def processor_seconds() -> float:
    """Of the processes that have ended below this one: a clock would count its neighbours."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_until_stops_after_a_stage(stores: dict[str, Path]) -> None:
    output = Build(stores["llama"], "--until", "zero_kept").succeed()
    assert stages_told(output, "reused") == ["base", "sums", "zero", "zero_traces", "zero_kept"]


def test_a_learning_rate_remakes_its_stage_and_its_descendants_as_the_plan_says(
    stores: dict[str, Path],
) -> None:
    store, remade = stores["llama"], {"student", "eval_student"}
    before = {a.path.name: a.manifest.content for a in sealed(store).values()}
    kept, made = kept_and_made(Build(store, "--set", SLOWER, verb="plan").succeed())
    assert made == remade
    assert kept == {step.name for step in make_plan(load_recipe(SMOKE))} - remade
    output = Build(store, "--set", SLOWER, is_warm=True).succeed()
    assert set(stages_told(output, "made in")) == remade
    assert set(stages_told(output, "reused")) == kept
    # What stood before stands still, the old student too.
    manifests = {path.parent.name for path in store.glob("*/manifest.json")}
    assert set(before) < manifests and len(manifests) == len(before) + 2


def test_two_builds_at_once_make_each_stage_once_and_a_flipped_byte_stops_the_next(
    tmp_path: Path,
) -> None:
    builds = [Build(tmp_path / "store", "--until", "sums") for _ in range(2)]
    outputs = [build.succeed() for build in builds]
    for name in ("sums",):
        assert sum(stages_told(output, "made in").count(name) for output in outputs) == 1
        assert sum(stages_told(output, "reused").count(name) for output in outputs) == 1
    pids = {f"process {build.process.pid} since" for build in builds}
    waited = [line for output in outputs for line in output.splitlines() if "waiting:" in line]
    assert any(pid in line for pid in pids for line in waited), outputs

    target = sealed(tmp_path / "store")["sums"].file("train.jsonl")
    raw = bytearray(target.read_bytes())
    raw[100] ^= 1
    target.write_bytes(raw)
    build = Build(tmp_path / "store", "--until", "sums")
    output = build.finish()
    assert build.process.returncode == 2
    assert f"{target}: content differs from its manifest" in output
    assert "Traceback" not in output
