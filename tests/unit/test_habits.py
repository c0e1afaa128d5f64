"""What runs before a commit, in continuous integration, and what an issue has to say."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from factory.core.yaml12 import load_mapping

ROOT = Path(__file__).resolve().parents[2]
HOOKS = ROOT / ".pre-commit-config.yaml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def hooks() -> list[dict[str, Any]]:
    return [hook for repo in load_mapping(HOOKS)["repos"] for hook in repo["hooks"]]


def test_hooks_before_a_commit_fetch_nothing_and_call_the_tools_of_make_development() -> None:
    assert [repo["repo"] for repo in load_mapping(HOOKS)["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks()} == {"system"}
    installed = {*PROJECT["optional-dependencies"]["dev"], *PROJECT["scripts"]}
    for hook in hooks():
        match = re.match(r"\.venv/bin/([a-z]+)\b", hook["entry"])
        assert match and match[1] in installed, hook["entry"]


def test_hooks_check_what_make_check_checks() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ncheck: style\n" in makefile
    recipe = makefile.split("\nstyle:")[1].split("\n\n")[0]
    for tool in ("ruff check", "ruff format", "basedpyright"):
        assert f"$(BIN)/{tool}" in recipe
        assert any(f".venv/bin/{tool}" in hook["entry"] for hook in hooks())


def commands(workflow: Path) -> list[str]:
    jobs = load_mapping(workflow)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_continuous_integration_is_the_script_that_a_developer_can_run() -> None:
    assert ".ci/run" in commands(ROOT / ".github" / "workflows" / "ci.yml")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_the_repository_and_ends(path: Path) -> None:
    workflow = load_mapping(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())


def test_the_newest_trl_is_tried_every_week_by_the_tests_of_its_mathematics() -> None:
    path = ROOT / ".github" / "workflows" / "newest-trl.yml"
    assert load_mapping(path)["on"]["schedule"]
    *_, install, test = commands(path)
    assert "install --upgrade trl" in install
    assert "pytest tests/golden" in test


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_asks_for_what_the_doctor_says(path: Path) -> None:
    fields = {field["id"]: field for field in load_mapping(path)["body"]}
    assert "factory doctor" in fields["doctor"]["attributes"]["description"]
    assert fields["doctor"]["validations"] == {"required": True}


def test_the_changelog_has_the_unreleased_on_top_and_a_date_for_every_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *versions = re.findall(r"^## (.+)$", text, re.M)
    assert first == "Unreleased"
    assert versions[0].startswith(PROJECT["version"])
    assert all(re.fullmatch(r"\d+\.\d+\.\d+, \d{4}-\d{2}-\d{2}", version) for version in versions)
