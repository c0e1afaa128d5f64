"""Who came from whom: where a checkpoint's weights started, and whose traces it learned from."""

from collections.abc import Mapping, Sequence

from factory.report.records import Step


def index(steps: Sequence[Step]) -> dict[str, Step]:
    """Steps by name, in plan order."""
    return {step.name: step for step in steps}


def model_input(step: Step, by_name: Mapping[str, Step]) -> str | None:
    """Name of the step whose weights `step` starts from, None where it starts from none.

    The field called `model` where there is one, else the first model among the inputs: a stage
    may read a second model, such as a teacher, that its weights do not come from.
    """
    if "model" in step.inputs and step.inputs["model"] in by_name:
        return step.inputs["model"]
    for name in step.inputs.values():
        if name in by_name and by_name[name].produces == "model":
            return name
    return None


def weight_ancestors(name: str, by_name: Mapping[str, Step]) -> list[str]:
    """Models whose weights led to the model `name`, nearest first."""
    chain: list[str] = []
    current = model_input(by_name[name], by_name)
    while current is not None and current not in chain:
        chain.append(current)
        current = model_input(by_name[current], by_name)
    return chain


def trace_writers(name: str, by_name: Mapping[str, Step]) -> list[str]:
    """Models that wrote the traces which the step `name` reads, directly or through select/mix."""
    writers: set[str] = set()
    pending = [source for source in by_name[name].inputs.values() if source in by_name]
    seen: set[str] = set()
    while pending:
        source = by_name[pending.pop()]
        if source.name in seen or source.produces != "traces":
            continue
        seen.add(source.name)
        writer = model_input(source, by_name)
        if writer is not None:
            writers.add(writer)
        pending.extend(parent for parent in source.inputs.values() if parent in by_name)
    return [step for step in by_name if step in writers]


def teachers(name: str, by_name: Mapping[str, Step]) -> list[str]:
    """Models of another line of weights whose traces, or distributions, `name` learned from."""
    own = {name, *weight_ancestors(name, by_name)}
    names = {*trace_writers(name, by_name), by_name[name].inputs.get("teacher")} - own
    return [step for step in by_name if step in names]
