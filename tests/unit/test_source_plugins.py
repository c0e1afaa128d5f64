"""Problem and trace sources of plug-ins: what they give, and what is said of a fault."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from building import wait_until_gone

from factory.building.plan import make_plan
from factory.building.recipe import Recipe, recipe_from
from factory.building.rehearse import rehearsal
from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.errors import DataError, EngineError, FactoryError, PluginError, RecipeError
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.plugin_files import load_plugins
from factory.core.records import Problem, Trace
from factory.problems import foreign
from factory.stages.problems import STAGE, ProblemsConfig
from factory.stages.written import WrittenConfig
from factory.stages.written import run as run_written

ROOT = Path(__file__).resolve().parents[2]
TICKETS, FORUM = ROOT / "examples" / "tickets.py", ROOT / "examples" / "forum.py"
pytestmark = pytest.mark.usefixtures("fresh_doors")

SOURCE = """
import time
from pathlib import Path
from typing import Literal
from factory.plugins import Problem, SourceConfig, new_problem, source

class Mine(SourceConfig):
    type: Literal["mine"]
    size: int = 1

def good(n):
    return new_problem("mine", f"{{n}} + 1", reference=str(n + 1), kind="math")

@source(Mine, version=1{options})
def make(config, seed):
{body}
"""
EXAMPLES = """
import time
from typing import Literal
from factory.plugins import TraceSourceConfig, WorkedExample, trace_source

class Mine(TraceSourceConfig):
    type: Literal["mine"]

@trace_source(Mine, version=1)
def make(config):
{body}
"""


def plugin(folder: Path, body: str, *, text: str = SOURCE, options: str = "") -> Path:
    path = folder / "mine.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    path.write_text(text.format(body=lines, options=options), encoding="utf-8")
    load_plugins([path])
    return path


def recipe(*sources: Mapping[str, Any]) -> Recipe:
    stages = {"questions": {"kind": "problems", "sources": list(sources)}}
    return recipe_from({"name": "test", "stages": stages}, "test.yaml")


def problems_of(folder: Path, source: Mapping[str, Any]) -> tuple[list[Problem], list[Problem]]:
    config = ProblemsConfig.model_validate_json(
        json.dumps({"kind": "problems", "sources": [source]})
    )
    out = folder / "out"
    out.mkdir()
    STAGE.run(config, Inputs({}), out, Context(3, Machine(threads=1), folder))
    train, held_out = (
        list(read_records(out / f"{split}.jsonl", Problem)) for split in ("train", "held_out")
    )
    return train, held_out


def test_a_source_gives_what_its_config_asks_for_and_the_same_each_time(tmp_path: Path) -> None:
    load_plugins([TICKETS])
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        source = {"type": "tickets", "most": 5, "train": 7, "held_out": 3}
        made.append(problems_of(tmp_path / name, source))
    train, held_out = made[0]
    assert made[0] == made[1] and (len(train), len(held_out)) == (7, 3)
    assert all(problem.licence == "CC0-1.0" for problem in train)  # what the source states
    assert all(int(problem.prompt.split()[0]) <= 5 for problem in train)


def test_settings_of_a_source_are_checked_when_the_recipe_is_read() -> None:
    load_plugins([TICKETS])
    for source, message in (
        ({"type": "tickets", "train": 1, "most": "few"}, r"sources\.0\.most: .*valid integer"),
        ({"type": "tickets", "train": 1, "mots": 3}, r"sources\.0\.mots: unknown key \(did you"),
        ({"type": "ticket", "train": 1}, r"sources\.0\.type: no problem source 'ticket' \(did you"),
        ({"train": 1}, r"sources\.0\.type: must be a mapping with a type"),
        ({"type": "tickets", "train": -1}, r"sources\.0\.train: .*greater than or equal to 0"),
        ({"type": "tickets"}, "source of type tickets asks for no problems"),
    ):
        with pytest.raises(RecipeError, match=message):
            recipe(source)
    with pytest.raises(RecipeError, match=r"sources\.0\.type: .* \(found"):
        recipe([1])  # type: ignore[arg-type]


def test_a_check_of_a_users_config_that_fails_is_named(tmp_path: Path) -> None:
    path = plugin(tmp_path, "return []")
    text = path.read_text().replace(
        "    size: int = 1", "    size: int = 1\n    def model_post_init(self, context): {}['x']"
    ).replace("mine", "other")  # fmt: skip
    (tmp_path / "other.py").write_text(text)
    load_plugins([tmp_path / "other.py"])
    with pytest.raises(RecipeError, match=r"sources\.0: .*other\.py: KeyError"):
        recipe({"type": "other", "train": 1})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", r"file .*mine\.py, make, row 1: ZeroDivisionError"),
        ("yield good(1)\nyield None", r"make, row 2: TypeError: gave None, a Problem is wanted"),
        ("yield {'prompt': 'x'}", r"row 1: TypeError: gave \{.*a Problem is wanted"),
        ("return None", r"row 1: TypeError: gave None, Problems one after the other"),
        ("return 7", r"row 1: TypeError: gave 7"),
        ("raise SystemExit(0)", r"row 1: SystemExit"),
        ("yield good(1)\ntime.sleep(60)", r"row 2: plug-in took longer than 2 s"),
        ("import os\nos._exit(3)", r"row 1: the plug-in process died with status 3"),
        ("yield good(1)\nyield new_problem('m', ' ', reference='2', kind='math')",
         r"row 2: its question is empty"),
        ("yield new_problem('m', '1?', reference='so it follows that we have to take the larger of "
         "both numbers, hence the answer', kind='math')", r"row 1: its reference .* worked"),
        ("yield new_problem('m', '1?', reference='2', kind='choice')", r"row 1: its reference '2'"),
        ("yield new_problem('m', '1?', reference='2', kind='none')", r"row 1: ValidationError"),
        ("yield good(1).model_copy(update={'data': {'x': float('nan')}})", r"row 1: ValueError"),
        ("yield good(1).model_copy(update={'data': {'x': {1}}})", r"row 1: TypeError"),
        ("yield good(1).model_copy(update={'prompt': 3})", r"row 1: prompt: "),
        ("yield good(1).model_copy(update={'prompt': '\\ud800'})", r"row 1: .*"),
    ],
)  # fmt: skip
def test_what_a_source_does_wrong_is_told_with_plugin_function_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.setattr(foreign, "SECONDS", 2.0)
    plugin(tmp_path, body)
    with pytest.raises((EngineError, DataError), match=message):
        problems_of(tmp_path, {"type": "mine", "train": 5})


def test_a_source_that_never_ends_or_repeats_itself_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "MOST_ROWS", 50)
    plugin(tmp_path, "while True:\n    yield good(1)")
    with pytest.raises(EngineError, match=r"problem source mine .*: still no end after 50 rows"):
        problems_of(tmp_path, {"type": "mine", "train": 2})


def test_an_endless_source_that_repeats_itself_says_how_many_it_has(tmp_path: Path) -> None:
    plugin(tmp_path, "while True:\n    yield good(1)", options=", is_endless=True")
    with pytest.raises(DataError, match="mine: found 1 of 2 train questions"):
        problems_of(tmp_path, {"type": "mine", "train": 2})


def test_a_source_declares_the_graders_of_its_problems(tmp_path: Path) -> None:
    load_plugins([ROOT / "examples" / "interval.py"])
    data = "{'low': 1, 'high': 3}"
    body = f"yield new_problem('m', 'A number?', reference='2', kind='interval', data={data})"
    plugin(tmp_path, body)
    with pytest.raises(DataError, match=r"its kind interval is a plug-in's.*\(\"interval\",\)"):
        problems_of(tmp_path, {"type": "mine", "train": 1})
    (step,) = make_plan(recipe({"type": "mine", "train": 1}))
    assert STAGE.uses(step.config) == set()
    path = plugin_named(tmp_path, "declared", body, ', graders=("interval",)')
    load_plugins([path])
    (step,) = make_plan(recipe({"type": "declared", "train": 1}))
    assert STAGE.uses(step.config) == {("graders", "interval")}
    (tmp_path / "more").mkdir()
    assert len(problems_of(tmp_path / "more", {"type": "declared", "train": 1})[0]) == 1


def plugin_named(folder: Path, name: str, body: str, options: str) -> Path:
    path = folder / f"{name}.py"
    text = SOURCE.format(body=f"    {body}", options=options)
    path.write_text(text.replace('"mine"', f'"{name}"'), encoding="utf-8")
    return path


def test_a_used_source_is_in_the_fingerprint_with_its_files(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("one")
    options = f", files=lambda config: (Path({str(data)!r}),)"
    plugin(tmp_path, "yield good(1)", options=options)

    def fingerprint() -> str:
        (step,) = make_plan(recipe({"type": "mine", "train": 1}))
        return step.fingerprint

    before = fingerprint()
    data.write_text("two")
    assert fingerprint() != before
    data.write_text("one")
    assert fingerprint() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (", files=lambda config: 1 / 0", "problem source mine: files: ZeroDivisionError"),
        (", files=lambda config: None", "problem source mine: files: gave None, a tuple is wanted"),
    ],
)
def test_what_plan_asks_of_a_source_is_told_where_it_fails(
    tmp_path: Path, options: str, message: str
) -> None:
    plugin(tmp_path, "yield good(1)", options=options)
    with pytest.raises(PluginError, match=message):
        make_plan(recipe({"type": "mine", "train": 1}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type: Literal["mine"]', "type: str", 'Mine needs `type: Literal'),
        ("class Mine(SourceConfig)", "class Mine", "is no SourceConfig"),
        ('Literal["mine"]', 'Literal["local"]', "registered already by the factory"),
    ],
)  # fmt: skip
def test_a_source_whose_config_is_none_is_refused_as_it_loads(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE.format(body="    pass", options="").replace(old, new))
    with pytest.raises(PluginError, match=message):
        load_plugins([path])


def test_a_source_is_rehearsed_in_small_and_priced_by_its_config() -> None:
    load_plugins([TICKETS])
    small = rehearsal(recipe({"type": "tickets", "train": 5000, "held_out": 100}))
    (source,) = small.stages["questions"].model_dump()["sources"]
    assert (source["train"], source["held_out"]) == (16, 4)


def written(folder: Path, source: Mapping[str, Any]) -> list[Trace]:
    held_out = folder / "held_out.jsonl"
    held_out.write_text("")
    config = WrittenConfig.model_validate_json(
        json.dumps({"kind": "written", "source": source, "unlike": "questions"})
    )
    out = folder / "out"
    out.mkdir(exist_ok=True)
    inputs: Any = {"unlike": _Folder(folder)}
    run_written(config, inputs, out, Context(3, Machine(threads=1), folder))
    return list(read_records(out / "traces.jsonl", Trace))


class _Folder:
    """Stands for an artifact that is not sealed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def file(self, name: str) -> Path:
        return self._path / name


def test_a_trace_source_is_graded_like_a_file_of_worked_examples(tmp_path: Path) -> None:
    load_plugins([FORUM])
    path = tmp_path / "forum.csv"
    path.write_text("title,body,accepted\nWhat is 3 + 4?,Seven.,7\nWhat is 5 * 6?,Thirty.,30\n")
    traces = written(tmp_path, {"type": "forum", "path": str(path)})
    assert [(trace.question, trace.answer, trace.reasoning) for trace in traces] == [
        ("What is 3 + 4?", "7", "Seven."), ("What is 5 * 6?", "30", "Thirty."),
    ]  # fmt: skip
    assert all(trace.verdict.is_correct and trace.style == "written" for trace in traces)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", r"trace source mine of file .*mine\.py, make, row 1: ZeroDivisionError"),
        ("yield None", r"row 1: TypeError: gave None, a WorkedExample is wanted"),
        ("return None", r"row 1: TypeError: gave None, WorkedExamples one after the other"),
        ("time.sleep(60)", r"row 1: plug-in took longer than 2 s"),
        ("while True: yield WorkedExample(question='a', reasoning='b', answer='1')",
         "still no end after 50 rows"),
        ("return []", "none of 0 examples is left"),
        ("yield WorkedExample(question='a', reasoning='b', answer='1', reference='2')",
         "trace source mine:1: wrong: 'a' is worked to '1': wrong"),
    ],
)  # fmt: skip
def test_what_a_trace_source_does_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.setattr(foreign, "SECONDS", 2.0)
    monkeypatch.setattr(foreign, "MOST_ROWS", 50)
    plugin(tmp_path, body, text=EXAMPLES)
    with pytest.raises(FactoryError, match=message):
        written(tmp_path, {"type": "mine"})


@pytest.mark.parametrize("fields", [{}, {"path": "a", "source": {"type": "local", "path": "b"}}])
def test_written_takes_a_file_or_a_source(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either path, a file of worked examples, or source"):
        WrittenConfig.model_validate_json(
            json.dumps({"kind": "written", "unlike": "questions", **fields})
        )


def test_a_process_of_a_source_ends_with_what_is_taken(tmp_path: Path) -> None:
    marks = tmp_path / "alive"
    body = f"""
n = 0
while True:
    n += 1
    Path({str(marks)!r}).write_text(str(n))
    yield good(n)
"""
    plugin(tmp_path, body.strip(), options=", is_endless=True")
    train, _ = problems_of(tmp_path, {"type": "mine", "train": 3})
    assert len(train) == 3 and int(marks.read_text()) == 3


def test_a_source_that_hangs_ends_with_a_build_that_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    body = f"import os\nPath({str(pid)!r}).write_text(str(os.getpid()))\nwhile True: pass"
    path = plugin(tmp_path, body)
    program = f"""
from pathlib import Path
from factory.core.plugin_files import load_plugins
from factory.problems.foreign import foreign_rows
from factory.problems.source import SOURCES
from factory.core.records import Problem
load_plugins([Path({str(path)!r})])
config = SOURCES["mine"].config(type="mine", train=1)
list(foreign_rows("sources", "mine", config, Problem, graders=(), seed=0))
"""
    parent = subprocess.Popen([sys.executable, "-P", "-c", program], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not pid.exists() or not pid.read_text():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    wait_until_gone([int(pid.read_text())])
