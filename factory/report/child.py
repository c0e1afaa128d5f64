"""The process in which plug-ins show what they have: a request a line in, blocks a line out."""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from factory.core.artifacts import open_artifact
from factory.core.blocks import Section
from factory.core.plugin_files import PluginFile, load_same, loaded_plugins
from factory.evaluation.claim import Claim
from factory.report.build import Build
from factory.report.foreign import BLOCKS, SECTION
from factory.report.records import Step
from factory.report.section import SECTIONS
from factory.stages import STAGES


def main(plugins: str) -> None:
    """Answer until standard input closes; whatever a plug-in prints goes nowhere."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    load_same([PluginFile.model_validate(row) for row in json.loads(plugins)])
    out.write("ready\n")
    out.flush()
    build: Build | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if build is None:
            build = _build(request)
        else:
            answer = _answer(build, request)
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _build(request: dict[str, Any]) -> Build:
    steps = []
    for step in request["steps"]:
        path = step.pop("artifact")
        artifact = None if path is None else open_artifact(Path(path))
        steps.append(Step(**step, artifact=artifact))
    claims = tuple(Claim.model_validate(claim, strict=False) for claim in request["claims"])
    return Build(request["recipe"], request["description"], tuple(steps), claims)


def _answer(build: Build, request: dict[str, str]) -> dict[str, Any]:
    try:
        return {"made": _made(build, request)}
    # A user's function may raise anything, SystemExit too; the report goes on without it.
    except BaseException as error:
        return {"error": f"{_line(error)}{_words(error)}"}


def _words(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{error.title}: {' '.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"


def _made(build: Build, request: dict[str, str]) -> Any:
    """Blocks as JSON values."""
    if "section" in request:
        section: Any = SECTIONS[request["section"]].function(build)
        if section is None:
            return None
        if not isinstance(section, Section):
            raise TypeError(f"gave {type(section).__name__}, a Section or None is wanted")
        return SECTION.dump_python(section, mode="json")
    step = build.by_name[request["shows"]]
    shows = STAGES[step.stage].shows
    assert shows is not None and step.artifact is not None
    blocks = BLOCKS.validate_python(tuple(shows.blocks(step.artifact)))
    return BLOCKS.dump_python(blocks, mode="json")


def _line(error: BaseException) -> str:
    """`line 12: `: of the plug-in's file, the innermost that was at work."""
    files = {file.path for file in loaded_plugins()}
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename in files]
    return f"line {lines[-1]}: " if lines else ""


if __name__ == "__main__":
    main(sys.argv[1])
