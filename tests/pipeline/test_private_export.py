"""A private export without an evaluation: the folder is asked what the student learned."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from factory.core.artifacts import Artifact
from factory.core.machine import Machine
from factory.publish.card import trace_writers
from factory.publish.folder import Outcome, Target, publish
from factory.publish.gate import Subject, as_gaps
from factory.publish.licences import Terms
from factory.publish.lineage import origins
from factory.publish.running import examine_running, learned_questions
from factory.text.chat import PromptConfig
from tests import published

MACHINE = Machine(device="cpu", engine="transformers")
TRAINED = [problem.prompt for problem in published.problems(20, 4)]


@dataclass(frozen=True)
class Exported:
    artifacts: dict[str, Artifact]
    folder: Path
    outcome: Outcome

    def subject(self, prompt: PromptConfig) -> Subject:
        student, terms = self.artifacts["student"], Terms("apache-2.0", (), ())
        return Subject(self.folder, student, prompt, [], terms, ())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("private")
    _, artifacts = published.make_store(folder, published.trained_student(folder / "student"))
    shutil.rmtree(artifacts.pop("eval_student").path)
    target = Target(folder / "mine")
    outcome = publish(
        artifacts["student"], target, MACHINE, licences={}, is_trial=False, is_private=True
    )
    return Exported(artifacts, target.folder, outcome)


def test_a_student_that_was_not_measured_is_asked_what_it_learned(exported: Exported) -> None:
    checks = {check.name: check for check in exported.outcome.checks}
    assert [checks[name].status for name in ("transformers", "stops", "thinks")] == ["passed"] * 3
    assert checks["stops"].reason == "4 of 4 questions of its training were answered to the end"
    assert checks["scores"].status == checks["benchmark"].status == "gap"
    written = json.loads((exported.folder / "gate.json").read_text(encoding="utf-8"))
    assert written == [check.model_dump() for check in exported.outcome.checks]
    card = (exported.folder / "README.md").read_text(encoding="utf-8")
    assert "## Scores\n\nIt was not measured.\n" in card and "## What was asked" not in card
    assert "- Not measured: nothing is known of other tasks, " in card


def test_a_student_that_does_not_stop_or_think_has_a_gap(exported: Exported) -> None:
    subject = exported.subject(PromptConfig(prefill=published.PREFILL))
    cut = {
        check.name: check for check in examine_running(subject, MACHINE, tokens=5, learned=TRAINED)
    }
    assert cut["stops"].status == cut["thinks"].status == "refused"
    assert cut["stops"].reason.startswith("0 of 4 questions") and "--tokens" in cut["stops"].reason
    # Without the beginning that its prompt writes, the answer opens no thoughts.
    bare = exported.subject(PromptConfig())
    checks = {
        check.name: check for check in examine_running(bare, MACHINE, tokens=64, learned=TRAINED)
    }
    assert (checks["stops"].status, checks["thinks"].status) == ("passed", "refused")
    assert checks["thinks"].reason.startswith("0 of these 4 answers hold thoughts")
    statuses = {check.name: check.status for check in as_gaps([*checks.values()])}
    assert statuses == {
        "transformers": "passed", "stops": "passed", "thinks": "gap", "benchmark": "gap"
    }  # fmt: skip


def test_a_folder_with_other_weights_is_refused_when_it_is_asked(
    exported: Exported, tmp_path: Path
) -> None:
    from factory.models.tiny import tiny_model

    folder = shutil.copytree(exported.folder, tmp_path / "other")
    tiny_model("llama", seed=9).save_pretrained(folder)
    prompt = PromptConfig(prefill=published.PREFILL)
    subject = Subject(folder, exported.artifacts["student"], prompt, [], Terms("", (), ()), ())
    checks = as_gaps(examine_running(subject, MACHINE, tokens=64, learned=TRAINED))
    assert [check.name for check in checks if check.status == "refused"] == ["transformers"]


def test_questions_of_the_last_training_are_asked(exported: Exported) -> None:
    ancestors = [exported.artifacts[name] for name in ("base", "sevens", "kept", "student")]
    assert learned_questions(ancestors) == TRAINED
    assert learned_questions(ancestors[:2]) == TRAINED
    assert learned_questions(ancestors[:1]) == []


@pytest.mark.parametrize(
    ("stage", "config", "writer"),
    [
        ("imported", {"teacher": {"name": "org/teacher", "licence": "mit"}}, "org/teacher"),
        ("imported", {"teacher": None}, "a teacher that is not stated"),
        ("imported", {}, "a teacher that is not stated"),
        ("written", {}, "people or programs"),
    ],
)
def test_the_card_names_who_wrote_the_traces(
    exported: Exported, stage: str, config: dict, writer: str
) -> None:
    made = {row.name: row for row in origins([exported.artifacts[n] for n in ("kept", "student")])}
    fields = {"inputs": {}, "stage": stage, "config": config}
    traces = made["kept"].model_copy(update=fields)
    reads = {"traces": traces.fingerprint}
    student = made["student"].model_copy(update={"inputs": reads})
    assert trace_writers(student.fingerprint, [traces, student]) == [writer]
