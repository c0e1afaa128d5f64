"""The factory from Python: what scripts and notebooks may rely on.

    from factory import api

    recipe = api.load("smoke", "stages.zero.steps=4")
    made = api.build(recipe, store="artifacts", until="few_shot_kept")
    api.frame(made["few_shot_kept"]).head()

Errors are `FactoryError`s with the words of the command line. `examples/from_python.ipynb` runs it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.building import pipeline
from factory.building.fit import require_devices, require_fit
from factory.building.pipeline import Observer
from factory.building.plan import Step, checked_plan
from factory.building.pricing import record
from factory.building.recipe import Recipe, load_machine, load_recipe
from factory.core.artifacts import Artifact, survey
from factory.core.errors import ArtifactError
from factory.core.machine import Machine
from factory.core.records import Problem, ProblemKind, Verdict
from factory.evaluation.compare import Comparison
from factory.evaluation.compare import compare as compare_scores
from factory.grading.grade import grade as grade_problem
from factory.report.writing import write_report
from factory.ui.display import PlainDisplay
from factory.ui.tables import resolve
from factory.ui.verbs import open_console

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Artifact", "Comparison", "Machine", "Observer", "Recipe", "Step", "Verdict", "artifact",
    "artifacts", "build", "compare", "frame", "grade", "load", "machine", "model", "plan", "report",
]  # fmt: skip

TABLES = {
    "problems": ("train.jsonl", "held_out.jsonl"),
    "traces": ("traces.jsonl",),
    "scores": ("scores.jsonl",),
    "pairs": ("pairs.jsonl",),
    "labels": ("labels.jsonl",),
}
"""Files of rows by kind of artifact."""


def load(recipe: str | Path, *overrides: str) -> Recipe:
    """A recipe by path or shipped name, with `--set` overrides; RecipeError lists every mistake."""
    return load_recipe(Path(recipe), overrides)


def machine(file: str | Path | None = None, *overrides: str) -> Machine:
    """Machine settings of a file or a shipped name (`cpu`, `gpu`); the defaults without one."""
    given = [f"machine.{override}" for override in overrides]
    return load_machine(None if file is None else Path(file), given)


def plan(recipe: Recipe, until: str | None = None) -> tuple[Step, ...]:
    """The steps in order, with fingerprints; RecipeError for what types cannot refuse."""
    return checked_plan(recipe, until=until)


def build(
    recipe: Recipe,
    store: str | Path = "artifacts",
    *,
    settings: Machine | None = None,
    until: str | None = None,
    observer: Observer | None = None,
) -> dict[str, Artifact]:
    """Make what is not made yet; the artifacts by stage name.

    Without an `observer` the lines of `factory build --plain` go to standard error. Raises what the
    command would say: FactoryError, in words.
    """
    steps, folder, chosen = plan(recipe, until), Path(store), settings or Machine()
    pipeline.check_store(folder)
    require_devices(steps, folder, chosen)
    record(steps, folder, chosen, check=require_fit)
    return pipeline.build(
        steps, folder, chosen, observer or PlainDisplay(len(steps), open_console(stderr=True))
    )


def report(recipe: Recipe, store: str | Path = "artifacts") -> Path:
    """Write the report of what is made so far; the path of its page."""
    return write_report(recipe, Path(store))[0]


def artifacts(store: str | Path = "artifacts") -> list[Artifact]:
    """All sealed artifacts, oldest first; broken folders are left out, `factory ls` names them."""
    return survey(Path(store))[0]


def artifact(name: str, store: str | Path = "artifacts") -> Artifact:
    """The artifact of a stage's name (the newest), a folder's name or a path."""
    return resolve(name, Path(store))


def frame(of: Artifact) -> "pandas.DataFrame":
    """The rows of problems, traces, scores, pairs or labels, nested records as columns with dots.

    Problems have a column `split`. ArtifactError for models, which have no rows.
    """
    import pandas

    names = [name for name in TABLES.get(of.manifest.kind, ()) if name in of.manifest.files]
    if not names:
        raise ArtifactError(f"{of.path}: a {of.manifest.kind} has no rows; `model` opens models")
    tables = []
    for name in names:
        table = pandas.json_normalize(_rows(of.file(name)))
        if len(names) > 1 or of.manifest.kind == "problems":
            table.insert(0, "split", name.removesuffix(".jsonl"))
        tables.append(table)
    return pandas.concat(tables, ignore_index=True)


def _rows(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def model(of: Artifact) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model artifact opened with transformers, on the CPU, every file checked before."""
    from transformers import AutoModelForCausalLM

    from factory.core.artifacts import verify
    from factory.text.templates import open_tokenizer

    if of.manifest.kind != "model":
        raise ArtifactError(f"{of.path}: holds {of.manifest.kind}, a model is needed")
    verify(of)
    loaded = AutoModelForCausalLM.from_pretrained(
        of.path, local_files_only=True, use_safetensors=True
    )
    return loaded.eval(), open_tokenizer(of.path)


def grade(
    text: str, reference: str, *, kind: ProblemKind = "math", data: dict[str, Any] | None = None
) -> Verdict:
    """The strict verdict on a completion with `<think>` and `<answer>` tags; text never raises."""
    problem = Problem(
        id="api-0", prompt="", reference=reference, kind=kind, source="api", data=data or {}
    )
    return grade_problem(problem, text)


def compare(run: Artifact, baseline: Artifact) -> Sequence[Comparison]:
    """Two scores artifacts problem by problem: differences with intervals and corrected p."""
    return compare_scores(run, baseline)
