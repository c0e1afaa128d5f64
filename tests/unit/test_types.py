"""What the type checker is told to overlook: counted, with rule and reason, and fewer by and by."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_IGNORES = 3
"""Lower it when one goes; it never rises."""
IGNORE = re.compile(r"#\s*(?:pyright|type):\s*ignore(.*)")


def ignores() -> list[tuple[str, str]]:
    """(file:line, what stands behind `ignore`) of every line that the checker skips."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", match[1])
        for folder in ("factory", "lab")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := IGNORE.search(line))
    ]


def test_an_ignore_gives_one_rule_and_a_reason() -> None:
    form = re.compile(r"\[report\w+\] - \w.+")
    assert [(where, text) for where, text in ignores() if not form.fullmatch(text)] == []


def test_the_ignores_only_become_fewer() -> None:
    assert len(ignores()) == MOST_IGNORES


def test_what_everything_stands_on_is_checked_strictly() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    strict = settings["tool"]["basedpyright"]["strict"]
    assert all((ROOT / path).exists() for path in strict)
    folders = {"factory/rewards", "factory/evaluation", "factory/building/launch"}
    files = {
        "core": "artifacts context errors jsonl machine plugin_files ranks records registry yaml12",
        "text": "chat lint",
        "building": "pipeline plan recipe rehearse suite worker",
    }
    paths = {f"factory/{folder}/{name}.py" for folder in files for name in files[folder].split()}
    assert folders | paths | {"factory/plugins.py"} <= set(strict)


def test_no_module_leaves_strict_checking_but_the_one_that_runs_lm_eval() -> None:
    loose = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "factory").rglob("*.py"))
        if re.search(r"^# pyright: basic", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert loose == ["factory/evaluation/registry_tasks.py"]


def test_no_library_of_training_sampling_and_evaluation_counts_as_anything() -> None:
    """A stub that gives Any for each name is left for what only graders and a source stand on."""
    stubs = ROOT / "tests" / "typings"
    anything = {
        path.relative_to(stubs).parts[0]
        for path in stubs.rglob("*.pyi")
        if "def __getattr__" in path.read_text(encoding="utf-8")
    }
    assert anything == {"py3langid"}
    assert {path.name for path in stubs.iterdir()} - anything == {"scipy", "yaml"}
