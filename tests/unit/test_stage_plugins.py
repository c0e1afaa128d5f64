"""Stages of plug-ins: what is said of a fault, where it is planned and where it runs."""

from pathlib import Path

import pytest

from factory.building.plan import make_plan
from factory.building.pricing import bill
from factory.building.recipe import Recipe, recipe_from
from factory.building.rehearse import rehearsal
from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError, EngineError, FactoryError, PluginError
from factory.core.machine import Machine
from factory.core.plugin_files import load_plugins
from factory.stages import STAGES
from factory.stages.foreign import run_foreign

pytestmark = pytest.mark.usefixtures("fresh_doors")
STAGE = """
from pathlib import Path
from typing import Literal
from factory.plugins import StageConfig, StageCost, light_stage, register

class Config(StageConfig):
    kind: Literal["mine"]
    much: int = 1

def run(config, inputs, out, context):
    (out / "traces.jsonl").write_text("")
    RUN
    return {"kept": 0}

def estimate(config, cost):
    return StageCost(1.0), None

register(light_stage(Config, produces="traces", version=1, run=run, estimate=estimate FIELDS))
"""
MACHINE = Machine.model_validate(
    {"device": "cpu", "threads": 1,
     "peaks": {"gflops": 100.0, "gigabytes_per_second": 10.0, "memory_gib": 8.0}}
)  # fmt: skip


def plugin(folder: Path, *, run: str = "", fields: str = "") -> Recipe:
    """A recipe of the stage, whose file is loaded."""
    path = folder / "mine.py"
    path.write_text(STAGE.replace("RUN", run).replace(" FIELDS", f", {fields}" if fields else ""))
    load_plugins([path])
    return recipe_from({"name": "t", "stages": {"it": {"kind": "mine"}}}, "t.yaml")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("1 / 0", r"stage mine of file .*mine\.py: run, line 12: ZeroDivisionError: division"),
        ("return None", "run gave None, a dict of numbers by name is wanted"),
        ("return {'kept': None}", "metric 'kept' is None, a finite number is wanted"),
        ("return {'kept': float('nan')}", "metric 'kept' is nan"),
        ("return {'kept': True}", "metric 'kept' is True"),
        ("return {3: 1.0}", "metric 3 is 1.0"),
        ("(out / 'traces.jsonl').unlink()", r"run wrote no traces\.jsonl, which traces have"),
        ("(out / 'traces.jsonl').write_text('{}')", r"traces\.jsonl:1: problem_id: Field required"),
        ("raise KeyError('x')", "KeyError: 'x'"),
    ],
)
def test_what_a_stage_does_wrong_at_work_is_told_with_its_line(
    tmp_path: Path, run: str, message: str
) -> None:
    (step,) = make_plan(plugin(tmp_path, run=run))
    (tmp_path / "out").mkdir()
    context = Context(0, MACHINE, tmp_path)
    with pytest.raises((EngineError, DataError), match=message):
        run_foreign(STAGES.row("mine"), step.config, Inputs({}), tmp_path / "out", context)


def test_a_stage_without_a_fault_gives_its_metrics_as_floats(tmp_path: Path) -> None:
    (step,) = make_plan(plugin(tmp_path))
    (tmp_path / "out").mkdir()
    context = Context(0, MACHINE, tmp_path)
    made = run_foreign(STAGES.row("mine"), step.config, Inputs({}), tmp_path / "out", context)
    assert made == {"kept": 0.0} and isinstance(made["kept"], float)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("external_files=lambda config: 1 / 0", "stage mine: external_files: ZeroDivisionError"),
        ("external_files=lambda config: None", "stage mine: external_files: gave None, a tuple"),
        ("uses=lambda config: []", r"stage mine: uses: gave \[\], a set is wanted"),
        ("check=lambda config: 'no'", "stage mine: check: gave 'no', a list is wanted"),
        ("missing=lambda config: [][1]", "stage mine: missing: IndexError"),
        ("small=lambda fields: None", "stage mine: small: gave None, a dict is wanted"),
    ],
)
def test_what_plan_and_rehearse_ask_of_a_stage_is_told_where_it_fails(
    tmp_path: Path, fields: str, message: str
) -> None:
    from factory.building.plan import missing

    with pytest.raises(FactoryError, match=message):
        recipe = plugin(tmp_path, fields=fields)
        missing(make_plan(recipe))
        rehearsal(recipe)


@pytest.mark.parametrize("value", ["None", "(1.0, None)", "1 / 0"])
def test_an_estimate_that_is_none_is_told(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        STAGE.replace("RUN", "").replace(" FIELDS", "").replace("StageCost(1.0), None", value)
    )
    load_plugins([path])
    recipe = recipe_from({"name": "t", "stages": {"it": {"kind": "mine"}}}, "t.yaml")
    (row,) = bill(make_plan(recipe), tmp_path, MACHINE).rows
    assert row.estimate is None and "stage mine: estimate: " in str(row.missing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from factory.plugins import register\nregister(3)", "takes a Stage, found 3"),
        (STAGE.replace("RUN", "").replace(" FIELDS", "").replace('"mine"', '"sft"'),
         "kind of stage 'sft' of file .* is registered already by the factory"),
        (STAGE.replace("RUN", "").replace(" FIELDS", ", wrong=1"), "TypeError"),
    ],
)  # fmt: skip
def test_a_stage_that_is_none_is_refused_as_it_loads(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(PluginError, match=message):
        load_plugins([path])
