"""Files that hang a reader or raise out of it: each is refused in words, within two seconds."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.building.plan import make_plan
from factory.building.recipe import load_machine, load_recipe
from factory.core.errors import MOST_LINES, FactoryError, RecipeError

MODEL = {"kind": "model", "source": {"type": "embedded"}}
PROBLEMS = {"kind": "problems", "sources": [{"type": "local", "path": "PATH"}]}


def recipe(folder: Path, text: str, name: str = "r.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def stages(folder: Path, count: int, **more: object) -> Path:
    rows = {f"s{n}": {"like": f"s{n - 1}"} if n else MODEL for n in range(count)}
    return recipe(folder, json.dumps({"name": "x", "stages": {**rows, **more}}))


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def chain(folder: Path) -> Path:
    for n in range(40):
        recipe(folder, f"extends: r{n + 1}.yaml\n", f"r{n}.yaml")
    return folder / "r0.yaml"


def naming(path: str) -> Callable[[Path], Path]:
    """A recipe whose problems stand in a file of this name."""

    def made(folder: Path) -> Path:
        fifo(folder)
        loop(folder)
        (folder / "empty").mkdir()
        text = json.dumps({"name": "x", "stages": {"p": PROBLEMS}})
        return recipe(folder, text.replace("PATH", path.replace("FOLDER", str(folder))))

    return made


FILES: dict[str, Callable[[Path], Path]] = {
    "many keys": lambda f: recipe(f, json.dumps({f"k{n}": 1 for n in range(60_000)})),
    "many keys of a stage": lambda f: stages(
        f, 1, z={**MODEL, **{f"k{n}": 1 for n in range(20000)}}
    ),
    "many stages": lambda f: stages(f, 15_000),
    "many likes": lambda f: stages(f, 3_000, zz={"kind": "nonesuch"}),
    "likes in a circle": lambda f: stages(f, 400, s0={"like": "s399"}),
    "many wrong kinds": lambda f: stages(
        f, 1, **{f"w{n}": {"kind": "x" * 500} for n in range(450)}
    ),
    "a long kind": lambda f: stages(f, 1, z={"kind": "x" * 900_000}),
    "a key of 900,000 characters": lambda f: recipe(f, json.dumps({"k" * 900_000: 1})),
    "deep JSON": lambda f: recipe(f, '{"a":' + "[" * 900 + "]" * 900 + "}"),
    "deep YAML": lambda f: recipe(f, "a: " + "[" * 40_000, "r.yaml"),
    "much YAML": lambda f: recipe(f, "a: [" + "1, " * 300_000 + "]\n", "r.yaml"),
    "a pipe": fifo,
    "a device": lambda f: Path("/dev/zero"),
    "a folder": lambda f: f,
    "a link to itself": loop,
    "a name with NUL": lambda f: Path("a\0b"),
    "a long name": lambda f: f / ("x" * 5000),
    "extends a pipe": lambda f: (fifo(f), recipe(f, "extends: fifo\nname: x\n", "r.yaml"))[1],
    "extends a device": lambda f: recipe(f, "extends: /dev/zero\nname: x\n", "r.yaml"),
    "extends a link to itself": lambda f: (loop(f), recipe(f, "extends: loop\n", "r.yaml"))[1],
    "extends NUL": lambda f: recipe(f, 'extends: "a\\0b"\nname: x\n', "r.yaml"),
    "extends forty": chain,
    "infinity": lambda f: recipe(f, '{"name": "x", "seed": Infinity}'),
    "not a number": lambda f: recipe(f, '{"name": "x", "stages": {"a": {"kind": NaN}}}'),
    "half a character": lambda f: recipe(f, '{"name": "\\ud800"}'),
    "a stage name with a newline": lambda f: stages(f, 1, **{"z\n": MODEL}),
    "problems in a pipe": naming("FOLDER/fifo"),
    "problems in a device": naming("/dev/zero"),
    "problems in a link to itself": naming("FOLDER/loop"),
    "problems in an empty folder": naming("FOLDER/empty"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_no_recipe_is_gets_an_answer(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path)
    began, clock = time.process_time(), time.monotonic()
    with pytest.raises(FactoryError) as message:
        make_plan(load_recipe(path))
    assert time.process_time() - began < 2.0
    assert time.monotonic() - clock < 15.0
    text = str(message.value)
    assert len(text.splitlines()) <= MOST_LINES + 1 and 10 < len(text) < 2500


@pytest.mark.parametrize(
    "name", ["a pipe", "a device", "a name with NUL", "deep JSON", "many keys"]
)
def test_what_no_machine_file_is_gets_an_answer(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        load_machine(FILES[name](tmp_path))


def test_a_recipe_may_come_through_a_pipe(tmp_path: Path) -> None:
    # As a shell's <(...) gives one; what writes to it may take a moment.
    path = fifo(tmp_path)
    text = json.dumps({"name": "x", "stages": {"a": MODEL}})

    def write() -> None:
        with path.open("w", encoding="utf-8") as file:
            time.sleep(0.2)
            file.write(text)

    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # so that the writer need not wait
    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.05)
    assert list(load_recipe(path).stages) == ["a"]
    writer.join()
    os.close(reader)


def test_of_many_problems_the_first_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    path = recipe(tmp_path, json.dumps({"name": "x", **{f"k{n}": 1 for n in range(1000)}}))
    with pytest.raises(RecipeError) as message:
        load_recipe(path)
    lines = str(message.value).splitlines()
    assert "k0: unknown key" in lines[0]
    # A thousand keys, and that there are no stages: said as one of the first or counted.
    assert lines[-1] == f"and {1000 - (len(lines) - 1):,} more"


@pytest.mark.parametrize("field", ["task", "path"])
def test_a_name_that_is_too_long_for_a_file_is_refused(field: str, tmp_path: Path) -> None:
    problems = {"kind": "problems", "sources": [{"type": "local", "path": "x" * 5000}]}
    benchmarks = [{"name": "b", "task": "x" * 5000}]
    evaluate = {"kind": "evaluate", "model": "a", "benchmarks": benchmarks}
    more = {"e": evaluate} if field == "task" else {"p": problems}
    path = recipe(tmp_path, json.dumps({"name": "x", "stages": {"a": MODEL, **more}}))
    with pytest.raises(FactoryError):
        make_plan(load_recipe(path))
