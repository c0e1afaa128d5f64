"""What `factory doctor` says about one thing that it has examined."""

from typing import Literal

from factory.core.records import Record

Status = Literal["ok", "warning", "problem"]


class Finding(Record):
    """One thing examined. `advice` is empty where there is nothing to do."""

    name: str
    status: Status
    state: str
    advice: str = ""


def ok(name: str, text: str) -> Finding:
    return Finding(name=name, status="ok", state=text)


def warning(name: str, text: str, advice: str) -> Finding:
    return Finding(name=name, status="warning", state=text, advice=advice)


def problem(name: str, text: str, advice: str) -> Finding:
    return Finding(name=name, status="problem", state=text, advice=advice)
