"""What stages share whose data a judge may make: pairs and labels."""

from factory.artifacts import Artifact
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers, Texts
from factory.cost.work import reading_work
from factory.records import SamplingConfig
from factory.stages.stage import Origin, file_origin

JUDGED_SHARE = 0.5
"""Of pairs that a judge decides and that balancing keeps; an assumption."""
INSTRUCTION_CHARACTERS = 1500
"""Of what a judge is told before it reads."""


def judged_texts(
    cost: CostContext, sampling: SamplingConfig, *, votes: int, at_once: int, kept: float
) -> tuple[StageCost, Texts]:
    """A judge that reads so many answers at once, and the share of its decisions that is kept."""
    traces: Answers = cost.read("source.traces")
    decisions = traces.rows / at_once
    taken = reading_work(
        cost, "source.judge", sampling, question=INSTRUCTION_CHARACTERS + traces.question,
        extra=at_once * traces.completion, prompts=decisions, samples=votes,
    )  # fmt: skip
    characters = traces.question + 3.6 * traces.completion
    return taken, Texts(kept * decisions, at_once, characters)


def preference_origins(artifact: Artifact) -> list[Origin]:
    """A file or a data set; what a judge made comes from its inputs."""
    source = artifact.manifest.config["source"]
    return [] if source["type"] == "judged" else [file_origin(source)]
