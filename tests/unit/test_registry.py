"""Doors: names that are taken once, unknown ones answered with the known, origins kept."""

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from factory.core import entry_points, registry
from factory.core.errors import PluginError, RecipeError
from factory.core.registry import DOORS, FACTORY, Door, Origin, modules_of, registering

MINE = Origin("file", "/home/me/mine.py", "ab" * 32)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door[int]:
    registry.open_doors()  # else a door that is made meanwhile would be lost with the copy
    monkeypatch.setattr(registry, "DOORS", dict(DOORS))
    numbers: Door[int] = Door("numbers", "number", [])
    numbers.register("three", 3, version=1)
    return numbers


def entries(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    group = {
        name: EntryPoint(name, value, "model_factory.numbers") for name, value in values.items()
    }
    monkeypatch.setattr(registry, "entry_points", lambda: {"model_factory.numbers": group})


def test_an_unknown_name_is_answered_with_the_known_ones_and_how_more_come(door: Door[int]) -> None:
    with pytest.raises(RecipeError, match=r"no number 'tree' \(did you mean three\?\)") as caught:
        door.row("tree")
    assert "--plugin FILE" in str(caught.value) and "installed package" in str(caught.value)
    assert "tree" not in door and door.get("tree") is None and list(door) == ["three"]


def test_a_name_is_taken_once_and_both_origins_are_named(door: Door[int]) -> None:
    with registering(MINE), pytest.raises(PluginError) as caught:
        door.register("three", 33, version=1)
    assert "the factory" in str(caught.value) and MINE.name in str(caught.value)
    assert door["three"] == 3
    with registering(MINE):
        door.register("four", 4, version=2)
        with pytest.raises(PluginError, match="registered already"):
            door.register("four", 5, version=2)
    assert door.row("four").identity == [2, MINE.sha256]
    assert door.row("three").origin == FACTORY


@pytest.mark.parametrize("name", ["", "two words", "../three", "3", "a-b", "\x1b[31m"])
def test_a_name_is_one_word(door: Door[int], name: str) -> None:
    with pytest.raises(PluginError, match="must be letters, digits and _"):
        door.register(name, 1, version=1)


def test_rows_of_a_file_that_failed_are_forgotten(door: Door[int]) -> None:
    with registering(MINE):
        door.register("four", 4, version=1)
    door.forget(MINE)
    assert list(door) == ["three"]


def test_a_package_is_imported_when_its_name_is_wanted_and_not_before(
    door: Door[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mynumbers.py").write_text(
        "from factory.core.registry import DOORS\nDOORS['numbers'].register('four', 4, version=7)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(DOORS, "numbers", door)
    entries(monkeypatch, four="mynumbers:four")
    assert list(door) == ["three", "four"] and "four" in door
    assert "mynumbers" not in sys.modules
    monkeypatch.setattr(EntryPoint, "load", lambda self: __import__(self.module))
    row = door.row("four")
    assert (row.value, row.version, row.origin.kind) == (4, 7, "package")
    assert len(row.origin.sha256) == 64
    sys.modules.pop("mynumbers")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError"),
        ("x = 1", "registers no number 'four'"),
    ],
)
def test_a_package_that_does_wrong_is_named(
    door: Door[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    message: str,
) -> None:
    (tmp_path / "badnumbers.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(EntryPoint, "load", lambda self: __import__(self.module))
    entries(monkeypatch, four="badnumbers:four")
    with pytest.raises(PluginError, match=message):
        door.row("four")
    sys.modules.pop("badnumbers", None)


def test_a_package_cannot_take_a_built_in_name(
    door: Door[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries(monkeypatch, three="mynumbers:three")
    with pytest.raises(PluginError, match="is also named by package"):
        door.row("three")


class _Installed:
    """Stands for an installed distribution."""

    def __init__(self, name: str, *entries: EntryPoint) -> None:
        self.name, self.version, self.entry_points = name, "1.0", entries


def test_two_packages_that_name_one_row_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("mine", f"{package}.rows", "model_factory.rewards") for package in "ab"]
    packages = [_Installed(entry.module, entry) for entry in entries]
    monkeypatch.setattr(entry_points, "distributions", lambda: packages)
    entry_points.entry_points.cache_clear()
    try:
        with pytest.raises(PluginError, match=r"'mine' is named by package b\.rows and by a\.rows"):
            entry_points.entry_points()
    finally:
        entry_points.entry_points.cache_clear()


def test_the_lab_registers_by_entry_points_as_rows_of_the_factory() -> None:
    registry.open_doors()
    own = {(entry.group, entry.name) for entry in entry_points.own_entry_points()}
    assert ("model_factory.sources", "world") in own and len(own) == 6
    for group, name in own:
        row = registry.DOORS[group.removeprefix("model_factory.")].row(name)
        assert row.origin == registry.FACTORY and row.version >= 1


def test_a_file_or_folder_in_a_package_is_all_that_a_built_in_row_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Door[int]
) -> None:
    """One that registers nothing is only shared by the others."""
    package = tmp_path / "of_numbers"
    text = (
        "from factory.core.registry import DOORS\nDOORS['digits'].register('{}', {}, version=1)\n"
    )
    files = {"two.py": ("two", 2), "one/__init__.py": ("one", 1)}
    for name, row in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text.format(*row))
    (package / "shared.py").touch()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    digits: Door[int] = Door("digits", "digit", modules_of("of_numbers"))
    assert "of_numbers.two" not in sys.modules
    assert dict(digits) == {"one": 1, "two": 2}
    assert all(row.origin == FACTORY for row in digits.rows())


def test_the_built_in_kinds_and_sections_are_what_lies_in_their_folders() -> None:
    from factory.report.section import BUILT_IN, SECTIONS
    from factory.stages import STAGES

    own = [row.name for row in STAGES.rows() if row.origin == FACTORY]
    assert {"model", "sft", "grpo", "evaluate"} <= set(own)
    stages = {name.rpartition(".")[2] for name in modules_of("factory.stages")}
    assert set(own) - stages <= {"pretrain"}
    assert set(BUILT_IN) <= set(SECTIONS)


def test_threads_that_ask_first_at_once_all_wait_for_the_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "DOORS", dict(DOORS))
    source = (
        "import time\nfrom factory.core.registry import DOORS\ntime.sleep(0.3)\n"
        "assert list(DOORS['slow']) == []\nDOORS['slow'].register('late', 1, version=1)\n"
    )
    (tmp_path / "a_slow_module.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    slow: Door[int] = Door("slow", "slow number", ["a_slow_module"])
    with ThreadPoolExecutor(4) as threads:
        names = list(threads.map(lambda _: list(slow), range(4)))
    sys.modules.pop("a_slow_module")
    assert names == [["late"]] * 4
