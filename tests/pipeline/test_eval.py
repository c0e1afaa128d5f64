"""`factory eval`: the offline suite as a build like any other, on two tiny models side by side."""

import json
from pathlib import Path

import pytest
from building import MACHINE, sealed
from click.testing import Result
from namespaces import needs_namespaces
from typer.testing import CliRunner

from factory.building import suite
from factory.cli import app
from factory.core.jsonl import read_records
from factory.core.records import Score
from factory.models.tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("warm_builds")

TINY = """
description: two short answers
prompt: {style: reflect}
sampling: {temperature: 1.0, top_p: 1.0, max_new_tokens: 8}
samples: 1
greedy: false
limit: 2
"""


def evaluate(store: Path, *arguments: str) -> Result:
    options = ["--suite", "offline", "--protocol", "tiny", "--plain", "--store", str(store)]
    options += ["--machine", str(store / "machine.yaml")]
    runner = CliRunner(env={"COLUMNS": "220"})
    return runner.invoke(app, ["eval", *arguments, *options], catch_exceptions=False)


@needs_namespaces
def test_the_offline_suite_runs_on_llama_and_qwen2_shapes_and_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real suite, under a protocol that takes seconds.
    evals = tmp_path / "evals"
    (evals / "protocols").mkdir(parents=True)
    (evals / "protocols" / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (evals / "suites").symlink_to(suite.EVALS / "suites")
    monkeypatch.setattr(suite, "EVALS", evals)
    store = tmp_path / "store"
    store.mkdir()
    (store / "machine.yaml").write_text(MACHINE, encoding="utf-8")
    models = []
    for architecture in ("llama", "qwen2"):
        folder = tmp_path / architecture
        save_tiny_model(folder, architecture, hidden=32)
        models.append(str(folder))

    done = evaluate(store, *models, "--against", models[0])
    assert done.exit_code == 0, done.output
    made = sealed(store)
    names = {benchmark["name"] for benchmark in suite.load_suite("offline").benchmarks}
    for name in ("eval_llama", "eval_qwen2"):
        scores = list(read_records(made[name].file("scores.jsonl"), Score))
        assert {score.benchmark for score in scores} == names
        assert {(score.n, score.k) for score in scores} == {(2, 1)}
        assert all(score.sampling.max_new_tokens == 8 for score in scores)
    assert "not run: math_500" in done.output
    assert "qwen2 against eval_llama" in done.output and "no difference shown" in done.output
    assert (store / "reports" / "eval-offline-tiny" / "report.html").is_file()

    # Again, and against sealed scores: nothing is made anew.
    again = evaluate(store, "qwen2", "--against", "eval_llama")
    assert again.exit_code == 0, again.output
    assert {a.fingerprint for a in sealed(store).values()} == {a.fingerprint for a in made.values()}
    assert "qwen2 against eval_llama" in again.output
    as_json = evaluate(store, "qwen2", "--against", "eval_llama", "--json")
    document = json.loads(as_json.stdout)
    assert {row["benchmark"] for row in document["models"][0]["benchmarks"]} == names
    assert document["models"][0]["against"] and document["baseline"].endswith(
        made["eval_llama"].path.name
    )
    assert "math_500" in {row["name"] for row in document["not_run"]}
