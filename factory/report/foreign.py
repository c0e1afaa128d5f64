"""What plug-ins show, made in a process that can be killed: none of them may lose the report."""

import json
from typing import Any

from pydantic import TypeAdapter

from factory.core.blocks import Block, Section, Text
from factory.core.errors import EngineError
from factory.core.plugin_files import loaded_plugins
from factory.core.registry import Row
from factory.grading.process import LineProcess
from factory.report.build import Build, once

SECONDS = 60.0
"""Wall clock of one section: it may read every answer of a build."""
SECTION: TypeAdapter[Section] = TypeAdapter(Section)
BLOCKS: TypeAdapter[tuple[Block, ...]] = TypeAdapter(tuple[Block, ...])


class Foreign:
    """Asks plug-ins what they show of one build; the process starts with the first question."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._process: LineProcess | None = None
        self.faults: list[str] = []
        """A line for each plug-in that failed."""

    def section(self, row: Row) -> Section | None:
        """Its section; None where it has nothing to show, and what it did wrong where it failed."""
        where = f"report section {row.name} of {row.origin.label}"
        result = self._asked({"section": row.name}, where, SECTION)
        return Section(row.name, (result,)) if isinstance(result, Text) else result

    def blocks(self, row: Row, step: str) -> tuple[Block, ...]:
        """What the row of a stage shows of a step, or what it did wrong."""
        where = f"{step}: what stage {row.name} of {row.origin.label} shows"
        result = self._asked({"shows": step}, where, BLOCKS)
        return (result,) if isinstance(result, Text) else result or ()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _asked(self, request: dict[str, str], where: str, kind: TypeAdapter[Any]) -> Any:
        """The answer as blocks; the fault as a text."""
        try:
            answer = self._answer(request)
            if "error" not in answer:
                made = answer["made"]
                return None if made is None else kind.validate_json(json.dumps(made))
            fault = answer["error"]
        except EngineError as error:
            fault = str(error)
        self.faults.append(f"{where}: {fault}")
        return Text(self.faults[-1], "worse")

    def _answer(self, request: dict[str, str]) -> dict[str, Any]:
        if self._process is None:
            files = json.dumps([file.model_dump() for file in loaded_plugins()])
            self._process = LineProcess("factory.report.child", [files], purpose="plug-in")
            self._process.wait_until_ready()
            self._line(_request(self._build))
        return json.loads(self._line(request))

    def _line(self, request: dict[str, Any]) -> str:
        assert self._process is not None
        self._process.send(json.dumps(request).encode(), seconds=SECONDS)
        line, failure = self._process.receive()
        if line is None:
            self.close()
            raise EngineError(failure)
        return line


@once
def foreign(build: Build) -> Foreign:
    """The one of a build; whoever renders closes it."""
    return Foreign(build)


def _request(build: Build) -> dict[str, Any]:
    """The build by where its artifacts lie."""
    return {
        "recipe": build.recipe,
        "description": build.description,
        "claims": [claim.model_dump(mode="json") for claim in build.claims],
        "steps": [
            {
                "name": step.name,
                "stage": step.stage,
                "produces": step.produces,
                "inputs": dict(step.inputs),
                "config": dict(step.config),
                "artifact": None if step.artifact is None else str(step.artifact.path.absolute()),
            }
            for step in build.steps
        ],
    }
