"""`factory prune` and `factory ls`: what goes, what never goes, and what later builds then make."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from factory.building import pipeline
from factory.building.attempts import attempts
from factory.building.plan import Step, make_plan
from factory.building.pruning import candidates, remove, unneeded
from factory.building.recipe import load_recipe
from factory.cli import app
from factory.core.artifacts import PRUNED, SMALL_BYTES, find, folder_name, remains, seal
from factory.core.machine import Machine
from factory.report.writing import write_report

RECIPE = """
name: chain
stages:
  base:
    kind: model
    source: {type: tiny, architecture: llama}
  sums:
    kind: problems
    sources: [{type: reasoning_gym, family: chain_sum, train: 4, held_out: 2}]
  traces: {kind: generate, model: base, problems: sums}
  student: {kind: sft, model: base, traces: traces}
  scored: {kind: evaluate, model: student, benchmarks: [{name: sums, problems: sums}]}
"""
LARGE = SMALL_BYTES + 1


class Silent:
    """Hears a build and keeps what was reused."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def reused(self, step: Step, artifact: object) -> None:
        self.names.append(step.name)

    def started(self, step: Step, folder: object) -> None:
        raise AssertionError(f"{step.name} is made")

    def event(self, step: Step, event: object) -> None: ...
    def made(self, step: Step, artifact: object) -> None: ...
    def waiting(self, step: Step, holder: str) -> None: ...


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path, recipe: Path) -> Path:
    """Every stage of the recipe, sealed; models have a file of weights and a small one."""
    seal_all(tmp_path / "store", recipe)
    return tmp_path / "store"


def seal_all(store: Path, recipe: Path) -> None:
    """Seal a folder for each of a recipe's stages, as if they had been made."""
    steps = make_plan(load_recipe(recipe))
    for step in steps:
        _seal(store, step, {other.name: other.fingerprint for other in steps})


def _seal(store: Path, step: Step, fingerprints: dict[str, str]) -> None:
    draft = store / f"{folder_name(step.name, step.fingerprint)}.partial"
    draft.mkdir(parents=True)
    (draft / "note.txt").write_text(step.name, encoding="utf-8")
    if step.stage.produces == "model":
        (draft / "model.safetensors").write_bytes(bytes(LARGE))
    (store / f"{draft.stem}.run").mkdir()
    fields: dict[str, Any] = {
        "kind": step.stage.produces, "name": step.name, "stage": step.kind, "stage_version": 1,
        "fingerprint": step.fingerprint, "config": {}, "seed": 0, "metrics": {"loss": 0.5},
        "inputs": {
            path: {"name": name, "fingerprint": fingerprints[name]}
            for path, name in step.inputs.items()
        },
        "versions": {}, "machine": {}, "commit": "", "dirty": False, "seconds": 1.0,
        "peak_memory_gib": 0.0, "created": "2026-01-01T00:00:00",
    }  # fmt: skip
    seal(draft, store / draft.stem, fields)


def _steps(recipe: Path, *overrides: str) -> dict[str, Step]:
    return {step.name: step for step in make_plan(load_recipe(recipe, list(overrides)))}


def _attempt(store: Path, name: str, *events: dict[str, Any]) -> Path:
    """A run that was begun, and its draft."""
    run = store / f"{name}.run"
    (run / "scratch").mkdir(parents=True)
    (store / f"{name}.partial").mkdir()
    (run / "job.json").write_text('{"stage": "grpo"}', encoding="utf-8")
    text = "".join(json.dumps(row) + "\n" for row in events)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    return run


def _checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "state").write_bytes(b"12345")
    marker = {"step": step, "files": {"state": 5}}
    (path / "COMPLETE").write_text(json.dumps(marker), encoding="utf-8")
    return path


def _names(rows: list[Any]) -> set[str]:
    return {row.path.name.rpartition("-")[0] for row in rows}


def _factory(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in arguments])


def test_nothing_sealed_goes_without_a_recipe_to_keep(store: Path) -> None:
    assert candidates(store) == []


def test_what_a_kept_recipe_needs_never_goes(store: Path, recipe: Path) -> None:
    plan = tuple(_steps(recipe).values())
    assert candidates(store, [plan]) == []
    other = tuple(_steps(recipe, "stages.student.learning_rate=1e-6").values())
    assert _names(candidates(store, [other])) == {"student", "scored"}
    assert candidates(store, [other, plan]) == []


def test_of_a_kept_recipe_only_models_that_led_to_others_are_intermediate(
    store: Path, recipe: Path
) -> None:
    """The student is read by its evaluation alone: it is what the recipe is for."""
    plan = tuple(_steps(recipe).values())
    rows = candidates(store, [plan], intermediates=True)
    assert [(row.size, row.keeps_small_files) for row in rows] == [(LARGE, True)]
    assert _names(rows) == {"base"}


def test_an_intermediate_that_something_is_still_to_be_made_from_stays(
    store: Path, recipe: Path
) -> None:
    other = tuple(_steps(recipe, "stages.student.learning_rate=1e-6").values())
    assert _names(candidates(store, [other], intermediates=True)) == {"student", "scored"}


def test_a_pruned_intermediate_is_not_made_again_and_the_report_stays(
    store: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, steps = load_recipe(recipe), _steps(recipe)
    (row,) = candidates(store, [tuple(steps.values())], intermediates=True)
    assert remove(row, store)
    print_of_base = steps["base"].fingerprint
    assert find(store, print_of_base) is None
    left = remains(store, print_of_base)
    assert left is not None and left.file("note.txt").read_text() == "base"
    assert left.run_path.is_dir()
    heard = Silent()
    made = pipeline.build(tuple(steps.values()), store, Machine(), heard)
    assert heard.names == ["sums", "traces", "student", "scored"] == list(made)
    handed: list[Any] = []
    monkeypatch.setattr("factory.report.writing.build", lambda *given: handed.append(given[2]))
    monkeypatch.setattr("factory.report.writing.write", lambda *_: store)
    monkeypatch.setattr("factory.report.writing.failures", lambda _: ())
    write_report(loaded, store)
    assert all(step.artifact is not None for step in handed[0])


@pytest.mark.parametrize(
    ("setting", "fates"),
    [
        ("stages.scored.samples=2", "not needed reused reused reused made"),
        ("stages.student.learning_rate=1e-6", "made reused reused made made"),
        ("stages.traces.samples=9", "made reused made made made"),
    ],
)
def test_a_pruned_model_is_made_again_when_something_needs_it(
    setting: str, fates: str, store: Path, recipe: Path
) -> None:
    (row,) = candidates(store, [tuple(_steps(recipe).values())], intermediates=True)
    remove(row, store)
    done = _factory("plan", recipe, "--set", setting, "--store", store, "--json")
    rows = json.loads(done.stdout)["rows"]
    assert " ".join(row["fate"] for row in rows) == fates


def test_a_pruned_model_is_made_again_when_it_is_what_a_build_is_to_end_with(
    store: Path, recipe: Path
) -> None:
    (row,) = candidates(store, [tuple(_steps(recipe).values())], intermediates=True)
    remove(row, store)
    assert unneeded(make_plan(load_recipe(recipe)), store) == {"base"}
    assert unneeded(make_plan(load_recipe(recipe), until="base"), store) == frozenset()


def test_a_model_deleted_by_hand_is_made_again(store: Path, recipe: Path) -> None:
    base = _steps(recipe)["base"]
    (store / folder_name("base", base.fingerprint)).rename(store.parent / "gone")
    assert unneeded(make_plan(load_recipe(recipe)), store) == frozenset()


def test_an_abandoned_run_goes_and_one_to_be_gone_on_with_keeps_its_last_checkpoint(
    store: Path, recipe: Path
) -> None:
    student = _steps(recipe, "stages.student.learning_rate=1e-6")
    name = folder_name("student", student["student"].fingerprint)
    run = _attempt(store, name)
    old, new = (_checkpoint(run / "scratch" / "trainer", step) for step in (9, 10))
    torn = _checkpoint(run / "scratch" / "trainer", 11)
    (torn / "state").write_bytes(b"1")
    (alone,) = candidates(store)
    assert alone.path == run and "no recipe that is kept goes on from it" in alone.why
    plan = tuple(student.values())
    kept = {row.path for row in candidates(store, [plan])}
    assert {old, torn, store / f"{name}.partial"} <= kept
    assert not {new, run, run / "scratch"} & kept
    assert remove(alone, store)
    assert not run.exists() and not (store / f"{name}.partial").exists()


def test_what_somebody_is_at_work_on_never_goes(store: Path, recipe: Path) -> None:
    step = _steps(recipe, "stages.student.learning_rate=1e-6")["student"]
    _attempt(store, folder_name("student", step.fingerprint))
    (abandoned,) = candidates(store)
    (store / ".locks").mkdir()
    with (store / ".locks" / step.fingerprint).open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 42 since then")
        lock.flush()
        assert candidates(store) == []
        assert not remove(abandoned, store), "begun between the question and the answer"
        done = _factory("prune", "--keep", recipe, "--store", store, "--yes")
        assert done.exit_code == 2 and "process 42 since then" in done.stderr
        assert [row.state for row in attempts(store)] == ["running"]
    assert [row.state for row in attempts(store)] == ["stopped"]


def test_nothing_is_removed_without_yes_and_the_next_line_removes_it(store: Path) -> None:
    run = _attempt(store, "zero-" + "a" * 12)
    done = _factory("prune", "--store", store)
    assert run.exists() and "nothing is removed without --yes" in done.stdout
    assert f"next: factory prune --yes --store {store}" in done.stdout
    assert "would free" in done.stdout
    again = _factory("prune", "--store", store, "--yes", "--json")
    assert not run.exists()
    (row,) = json.loads(again.stdout)["rows"]
    assert row["path"] == run.name and row["is_removed"] and row["why"].startswith("stopped")


def test_leftovers_of_kills_go(store: Path, recipe: Path) -> None:
    base = folder_name("base", _steps(recipe)["base"].fingerprint)
    (store / f"{base}.run" / "scratch").mkdir()
    (store / f"{base}.broken-17").mkdir()
    (store / f"zero-{'b' * 12}{PRUNED}").mkdir()
    (store / f"zero-{'b' * 12}{PRUNED}" / "model.safetensors").write_bytes(bytes(LARGE))
    rows = candidates(store)
    assert {row.path.name.partition("-")[0] for row in rows} == {"base", "scratch", "zero"}
    assert all(remove(row, store) for row in rows)
    assert candidates(store) == [] and (store / base / "note.txt").is_file()


@pytest.mark.parametrize("older", ["30", "d", "-1d", "1w", "1.5d", "1234567d"])
def test_an_age_that_is_none_is_refused(older: str, store: Path) -> None:
    done = _factory("prune", "--older", older, "--store", store)
    assert done.exit_code == 2 and "a number of days or hours" in done.stderr


def test_what_is_younger_than_the_age_stays(store: Path) -> None:
    _attempt(store, "zero-" + "a" * 12)
    assert "nothing in" in _factory("prune", "--older", "1h", "--store", store).stdout
    assert "would free" in _factory("prune", "--older", "0h", "--store", store).stdout


def test_ls_names_what_is_made_what_failed_and_how_far_it_came(store: Path) -> None:
    _attempt(
        store,
        "zero-" + "a" * 12,
        {"event": "progress", "done": 22, "total": 400, "unit": "steps"},
    )
    _attempt(store, "cold-" + "b" * 12, {"event": "error", "message": "no room\nat all"})
    done = _factory("ls", "--store", store, "--json")
    rows = {row["artifact"].partition("-")[0]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["zero"]["state"] == "stopped" and rows["zero"]["detail"] == "at 22 of 400 steps"
    assert rows["cold"]["state"] == "failed" and rows["cold"]["detail"] == "no room"
    assert rows["base"]["state"] == "made" and rows["base"]["bytes"] > LARGE
    assert rows["student"]["detail"] == "loss 0.5"
    piped = _factory("ls", "--store", store).stdout.splitlines()
    assert piped[0].split("\t")[:2] == ["artifact", "state"]
    assert len(piped) == 1 + len(rows) + 2


def test_ls_of_nothing_says_so(tmp_path: Path) -> None:
    done = _factory("ls", "--store", tmp_path)
    assert done.stdout.startswith("nothing here yet")
    assert f"next: factory build smoke --store {tmp_path}" in done.stdout
