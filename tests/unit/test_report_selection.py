"""The report on rewriting, review and mixtures: counts, reasons, who decided, first examples."""

from pathlib import Path

from factory.core.artifacts import seal
from factory.core.jsonl import write_records
from factory.core.records import SamplingConfig, Trace, Verdict
from factory.report.build import build
from factory.report.records import Step
from factory.report.render import render_html, render_markdown
from factory.report.sections.result import headline
from factory.stages.fitness import Rejected
from factory.stages.review import review_remark
from factory.stages.rewrite import Reply
from factory.text.chat import completion_text

HOSTILE = "<script>alert(1)</script>\x1b[31m"


def trace(name: str) -> Trace:
    return Trace(
        problem_id=name, sample=0, question="q", prompt="p", completion=completion_text("a", "9"),
        reasoning="a", answer="9", finish_reason="stop", completion_tokens=5, seed=0,
        sampling=SamplingConfig(), style="rewrite", model="m",
        verdict=Verdict(outcome="correct", answer="9", explanation=""),
    )  # fmt: skip


def step(
    folder: Path, kind: str, metrics: dict[str, float], *, config: dict | None = None, **files
) -> Step:
    folder.mkdir(parents=True)
    write_records(folder / "traces.jsonl", [trace("kept")])
    for name, rows in files.items():
        write_records(folder / f"{name}.jsonl", rows)
    fields = {
        "kind": "traces", "name": folder.name, "stage": kind, "stage_version": 1,
        "fingerprint": folder.name * 12, "config": config or {}, "inputs": {}, "seed": 0,
        "metrics": metrics, "versions": {}, "machine": {}, "commit": "c", "dirty": False,
        "seconds": 1.0, "peak_memory_gib": 0.1, "created": "",
    }  # fmt: skip
    artifact = seal(folder, folder.with_suffix(".sealed"), fields)
    return Step(folder.name, kind, "traces", config=config or {}, artifact=artifact)


def test_the_report_shows_what_became_of_traces_and_who_decided(tmp_path: Path) -> None:
    replies = [
        Reply(problem_id="x", sample=0, attempt=0, draft="d", reply="bad", reason="no_answer"),
        Reply(problem_id="y", sample=0, attempt=0, draft="the draft", reply=HOSTILE, reason=None),
    ]
    steps = [
        step(
            tmp_path / "rewritten", "rewrite",
            {"kept": 1, "rejected.answer_changed": 2, "rejected.no_answer": 1},
            rejected=[Rejected(reason="no_answer", trace=trace("x"))], replies=replies,
        ),
        step(
            tmp_path / "reviewed", "review",
            {"kept": 2, "by_person": 0, "by_policy": 3, "rejected.reviewer: unsafe": 1},
            config={"policy": "accept"},
        ),
        step(
            tmp_path / "mixed", "mix",
            {
                "kept": 4,
                **{f"domains.{name}.{what}": value
                   for name in ("math", "code", "stem", "logic", "general")
                   for what, value in (("kept", 2), ("share", 0.2), ("r1_share", 0.3))},
            },
        ),
    ]  # fmt: skip
    report = build("cold", "", steps)
    said = "The traces of reviewed were not reviewed by a person: a policy decided."
    assert said in headline(report).remarks
    for page in (render_markdown(report), render_html(report)):
        page = page.replace("\\", "").replace("\u00a0", " ")  # escapes of Markdown, tied signs
        assert "answer_changed" in page and "30.0 %" in page
        assert "all 3 traces were left to the policy" in page and "the draft" in page
        assert "not reviewed by a person" in page
        assert "1 of 4 traces kept (25.0 %)" in page
        counts = [page.index(text) for text in ("dropped: answer_changed", "dropped: no_answer")]
        assert counts == sorted(counts)  # most frequent first
        assert "\x1b" not in page
    assert render_html(report).count("<script") == 1


def test_agreement_stands_beside_who_decided() -> None:
    metrics = {"by_person": 4.0, "by_policy": 1.0, "agreement.n": 4.0, "agreement.share": 0.75}
    assert review_remark({**metrics, "agreement.kappa": 0.5}, "accept") == (
        "4 of 5 traces were decided by a person; 1 not reviewed by a person, by the policy "
        "`accept`; two passes agree on 75 % of 4 traces, Cohen's kappa 0.50"
    )
    assert review_remark(metrics, "accept").endswith("kappa not defined")
