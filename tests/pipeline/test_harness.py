"""The evaluate stage end to end: lm-eval, our sampler protocol, our graders; no model is run."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factory.core.artifacts import Artifact, Inputs, Manifest, seal
from factory.core.context import Context, stderr_context
from factory.core.errors import DataError, EngineError, RecipeError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import OUTCOMES, EvalSample, Problem, SamplingConfig, Score
from factory.evaluation.compare import compare
from factory.models.tiny import byte_tokenizer, save_tiny_model
from factory.sampling.scripted import ScriptedSampler
from factory.stages import evaluate
from factory.stages.evaluate import EVALS, BenchmarkConfig, EvaluateConfig
from factory.text.chat import PromptConfig, render

PROBLEMS = [
    Problem(
        id=f"sum-{i}", prompt=f"What is {i} + 1?", reference=str(i + 1), kind="exact", source="sums"
    )
    for i in range(6)
]
TOKENIZER = byte_tokenizer()
Reply = Callable[[str, int], str]
"""(prompt text, seed) -> completion text."""


def tagged(answer: object) -> str:
    return f"<think> hm </think> <answer> {answer} </answer>"


def right_answer(prompt: str) -> int:
    return int(prompt.split("What is ")[1].split(" + ")[0]) + 1


def sealed(root: Path, name: str, kind: str, fill: Callable[[Path], object]) -> Artifact:
    partial = root / f"{name}.partial"
    partial.mkdir()
    fill(partial)
    fields = {
        **{"kind": kind, "name": name, "stage": kind, "stage_version": 1, "config": {}},
        **{"fingerprint": hashlib.sha256(name.encode()).hexdigest(), "inputs": {}, "seed": 0},
        **{"metrics": {}, "versions": {}, "machine": {}, "commit": "", "dirty": False},
        **{"seconds": 0.0, "peak_memory_gib": 0.0, "created": ""},
    }
    assert set(fields) == set(Manifest.model_fields) - {"files", "content", "plugins"}
    return seal(partial, root / name, fields)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("model")
    return sealed(root, "tiny", "model", lambda path: save_tiny_model(path, "llama", hidden=32))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("problems")
    return sealed(
        root, "sums", "problems", lambda path: write_records(path / "held_out.jsonl", PROBLEMS)
    )


class Bench:
    """Runs the stage in one folder with a scripted sampler in the engine's place."""

    def __init__(self, root: Path, model: Artifact, problems: Artifact) -> None:
        self.out, self.scratch = root / "out", root / "scratch"
        self.out.mkdir()
        self.scratch.mkdir()
        self.inputs = Inputs({"model": model, "benchmarks.0.problems": problems})
        self.sampler: ScriptedSampler | None = None
        self.max_length = self.mean_length = 0

    def run(
        self, reply: Reply, monkeypatch: pytest.MonkeyPatch, **config: object
    ) -> dict[str, float]:
        self.sampler = ScriptedSampler(
            lambda request: reply(TOKENIZER.decode(request.prompt_ids), request.seed), TOKENIZER
        )

        def open_scripted(
            path: Path, context: Context, max_length: int, mean_length: int
        ) -> ScriptedSampler:
            self.max_length, self.mean_length = max_length, mean_length
            assert self.sampler is not None
            return self.sampler

        monkeypatch.setattr(evaluate, "_sampler", open_scripted)
        settings = {"benchmarks": (BenchmarkConfig(name="sums", problems="sums"),), **config}
        stage_config = EvaluateConfig(
            kind="evaluate",
            model="tiny",
            sampling=SamplingConfig(max_new_tokens=100),
            **settings,  # type: ignore[arg-type]
        )
        context = stderr_context(7, self.scratch, Machine(block=4, threads=1))
        return evaluate.run(stage_config, self.inputs, self.out, context)

    def scores(self) -> dict[str, Score]:
        return {score.metric: score for score in read_records(self.out / "scores.jsonl", Score)}

    def samples(self) -> list[EvalSample]:
        return list(read_records(self.out / "samples.jsonl", EvalSample))

    def harness(self) -> dict[str, dict]:
        return json.loads((self.out / "harness.json").read_text())


@pytest.fixture
def bench(tmp_path: Path, model: Artifact, problems: Artifact) -> Bench:
    return Bench(tmp_path, model, problems)


def half_right(prompt: str, seed: int) -> str:
    """Problems 0 and 1 always right, 2 to 5 only in odd streams and then without tags."""
    answer = right_answer(prompt)
    if answer <= 2:
        return tagged(answer)
    return f"It is {answer}" if seed % 2 else tagged("none")


def dies_after(count: int) -> Callable[[str, int], str]:
    """`half_right` for so many replies; then the process ends."""
    left = count

    def reply(prompt: str, seed: int) -> str:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return half_right(prompt, seed)

    return reply


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_known_replies_give_known_scores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = bench.run(half_right, monkeypatch, samples=4)
    scores = bench.scores()
    # Strictly right: 2 of 6 problems, in every sample and so in the majority of samples.
    assert [scores[m].value for m in ("pass@1", "pass@4", "cons@4", "greedy")] == [2 / 6] * 4
    pass_at_1 = scores["pass@1"]
    assert (pass_at_1.n, pass_at_1.k, pass_at_1.version) == (6, 4, "1")
    assert pass_at_1.low < pass_at_1.value < pass_at_1.high
    samples = bench.samples()
    hard = [s for s in samples if s.mode == "sampled" and right_answer(s.trace.prompt) > 2]
    odd = sum(sample.trace.seed % 2 for sample in hard)
    outcomes = {"correct": 8, "wrong": 16 - odd, "no_answer": odd}
    assert pass_at_1.outcomes == {**dict.fromkeys(OUTCOMES, 0), **outcomes}
    assert metrics["sums.pass@1"] == pass_at_1.value
    assert metrics["completion_tokens"] == sum(s.trace.completion_tokens for s in samples)


def test_an_untagged_right_number_counts_leniently_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(lambda prompt, _: f"It is {right_answer(prompt)}", monkeypatch, samples=2)
    scores = bench.scores()
    assert [scores[m].value for m in ("pass@1", "pass@1_lenient")] == [0.0, 1.0]
    assert [scores[m].value for m in ("greedy", "greedy_lenient")] == [0.0, 1.0]
    assert scores["pass@1"].outcomes["no_answer"] == scores["pass@1_lenient"].outcomes["correct"]


def test_lm_eval_aggregates_the_same_numbers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(half_right, monkeypatch, samples=4)
    scores, results = bench.scores(), bench.harness()["results"]
    theirs = {
        "pass@1": results["sums.sampled"]["pass@1,samples"],
        "pass@1_lenient": results["sums.sampled"]["pass@1_lenient,samples"],
        "greedy": results["sums.greedy"]["pass@1,samples"],
        "greedy_lenient": results["sums.greedy"]["pass@1_lenient,samples"],
    }
    assert theirs == pytest.approx({name: scores[name].value for name in theirs}, abs=1e-12)
    assert 0 < theirs["pass@1"] < theirs["pass@1_lenient"]


def test_the_prompt_is_the_protocols_and_samples_are_in_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PromptConfig(style="zero")
    bench.run(half_right, monkeypatch, samples=2, prompt=prompt)
    samples = bench.samples()
    expected = [("sampled", f"sum-{i}", k) for i in range(6) for k in range(2)]
    expected += [("greedy", f"sum-{i}", 0) for i in range(6)]
    assert [(s.mode, s.trace.problem_id, s.trace.sample) for s in samples] == expected
    rendered = [render(problem.prompt, prompt, TOKENIZER) for problem in PROBLEMS]
    assert [s.trace.prompt for s in samples if s.mode == "greedy"] == rendered
    assert samples[0].trace.sampling.stop == ("</answer>",)
    assert samples[-1].trace.sampling.temperature == 0.0
    lengths = [len(TOKENIZER(text)["input_ids"]) for text in rendered]
    assert bench.max_length == max(lengths) + 100
    assert bench.mean_length == sum(lengths) // len(lengths) + 100


def test_a_killed_evaluation_asks_only_for_the_missing_blocks(
    bench: Bench,
    tmp_path: Path,
    model: Artifact,
    problems: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.run(dies_after(10), monkeypatch, samples=2)  # in the third block
    assert contents(bench.out) == {}
    bench.run(half_right, monkeypatch, samples=2)
    # 12 sampled requests in blocks of 4, of which 2 blocks were finished; 6 greedy ones in 2.
    assert bench.sampler is not None
    assert [len(call) for call in bench.sampler.calls] == [4, 4, 2]

    (tmp_path / "whole").mkdir()
    undisturbed = Bench(tmp_path / "whole", model, problems)
    undisturbed.run(half_right, monkeypatch, samples=2)
    assert contents(bench.out) == contents(undisturbed.out)


def test_a_limit_leaves_the_streams_of_the_problems_it_keeps(
    bench: Bench,
    tmp_path: Path,
    model: Artifact,
    problems: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.run(half_right, monkeypatch, samples=2)
    (tmp_path / "limited").mkdir()
    limited = Bench(tmp_path / "limited", model, problems)
    two = (BenchmarkConfig(name="sums", problems="sums", limit=2, samples=1),)
    limited.run(half_right, monkeypatch, benchmarks=two)
    kept = {(s.mode, s.trace.problem_id, s.trace.sample): s.trace.seed for s in limited.samples()}
    everything = {
        (s.mode, s.trace.problem_id, s.trace.sample): s.trace.seed for s in bench.samples()
    }
    assert len(kept) == 4
    assert kept.items() <= everything.items()
    assert len(set(everything.values())) == len(everything)
    assert set(limited.scores()) == {"pass@1", "pass@1_lenient", "greedy", "greedy_lenient"}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        # Nobody could ever decide: said before anything is drawn.
        ({"kind": "open"}, DataError, r"benchmark sums: 6 of 6 problems are of kind open"),
        (
            {"kind": "procedural", "data": {"family": "none", "config": {}, "entry": {}}},
            EngineError,
            r"benchmark sums: .*ungradable",
        ),
    ],
)
def test_more_than_one_percent_ungradable_fails_loudly(
    changed: dict[str, Any], error: type[Exception], message: str,
    tmp_path: Path, model: Artifact, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    broken = [problem.model_copy(update=changed) for problem in PROBLEMS]
    artifact = sealed(
        tmp_path, "open", "problems", lambda path: write_records(path / "held_out.jsonl", broken)
    )
    bench = Bench(tmp_path, model, artifact)
    with pytest.raises(error, match=message):
        bench.run(half_right, monkeypatch, samples=1)
    assert contents(bench.out) == {}


def test_an_unknown_source_names_those_that_exist(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (BenchmarkConfig(name="sums", problems="sums", source="products"),)
    with pytest.raises(DataError, match=r"source 'products' .* its sources: sums"):
        bench.run(half_right, monkeypatch, benchmarks=config)


def test_evaluations_of_the_same_problems_are_compared_in_pairs(
    bench: Bench,
    tmp_path: Path,
    model: Artifact,
    problems: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.run(half_right, monkeypatch, samples=0)
    (tmp_path / "better").mkdir()
    better = Bench(tmp_path / "better", model, problems)
    better.run(lambda prompt, _: tagged(right_answer(prompt)), monkeypatch, samples=0)
    a, b = (
        sealed(
            tmp_path,
            name,
            "scores",
            lambda path, out=out: shutil.copytree(out, path, dirs_exist_ok=True),
        )
        for name, out in (("new", better.out), ("old", bench.out))
    )
    strict = compare(a, b)[0]
    assert (strict.benchmark, strict.metric, strict.a, strict.b) == ("sums", "greedy", "new", "old")
    # 6 of 6 against 2 of 6: four problems changed, all one way: p = 2 / 2**4.
    assert strict.difference.value == pytest.approx(4 / 6, abs=1e-12)
    assert strict.p_value == 0.125
    assert strict.n == 6


def test_gsm8k_runs_from_its_yaml_and_stock_lm_eval_loads_it_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import TaskManager

    stock = TaskManager(include_path=str(EVALS), include_defaults=False)
    documents = stock.load("gsm8k_100")["tasks"]["gsm8k_100"].eval_docs
    assert len(documents) == 100
    references = {document["prompt"]: document["reference"] for document in documents}

    def reply(prompt: str, seed: int) -> str:
        question = prompt.split("user\n")[1].split("<|im_end|>")[0]
        return tagged(references[question])

    gsm8k = BenchmarkConfig(name="gsm8k", task="gsm8k_100", limit=5)
    bench.run(reply, monkeypatch, benchmarks=(gsm8k,), samples=0)
    greedy = bench.scores()["greedy"]
    assert (greedy.value, greedy.n, greedy.k) == (1.0, 5, 1)


FOREIGN = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
doc_to_text: "Q: {{{{q}}}}\\nA:"
doc_to_target: a
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 30}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: first
    filter: [{{function: regex, regex_pattern: "([A-Z][a-z]+)"}}, {{function: take_first}}]
  - name: last
    filter:
      - {{function: regex, regex_pattern: "([A-Z][a-z]+)", group_select: -1}}
      - {{function: take_first}}
metadata: {{version: 3}}
"""
CAPITALS = [{"q": "France", "a": "Paris"}, {"q": "Italy", "a": "Rome"}, {"q": "Spain", "a": "Lima"}]


def write_task(evals: Path, yaml: str, rows: list[dict[str, object]]) -> None:
    evals.mkdir()
    data = evals / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (evals / "task.yaml").write_text(yaml.format(data=data))


def test_a_task_that_is_not_ours_keeps_its_text_filters_and_metrics(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path / "evals", FOREIGN, CAPITALS)
    monkeypatch.setattr(evaluate, "EVALS", tmp_path / "evals")
    answers = {"France": "Paris\nLondon", "Italy": "Milan or Rome", "Spain": "Madrid"}
    prompts = []

    def reply(prompt: str, seed: int) -> str:
        prompts.append(prompt)
        return answers[prompt.split("Q: ")[1].split("\n")[0]]

    capitals = BenchmarkConfig(name="capitals", task="capitals", raw=True)
    bench.run(reply, monkeypatch, benchmarks=(capitals,))
    assert prompts == [f"Q: {row['q']}\nA:" for row in CAPITALS]
    scores = bench.scores()
    # "Paris" once cut at the line end; Rome only where the last match counts.
    assert scores["exact_match_first"].value == pytest.approx(1 / 3, abs=1e-12)
    assert scores["exact_match_last"].value == pytest.approx(2 / 3, abs=1e-12)
    assert scores["exact_match_last"].version == "3"
    assert scores["exact_match_last"].prompt_style == "raw"
    verdicts = [(s.trace.verdict.outcome, s.lenient.outcome) for s in bench.samples()]
    assert verdicts == [("correct", "correct"), ("wrong", "correct"), ("wrong", "wrong")]
    assert bench.samples()[0].mode == "greedy"
    assert list((bench.scratch / "datasets").rglob("*.arrow"))


CHOICES = """
task: colours
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}} is"
doc_to_choice: ["red", "blue"]
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""


def test_a_task_of_likelihoods_runs_on_the_model_itself(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [{"q": "blood", "label": 0}, {"q": "blood", "label": 1}]
    write_task(tmp_path / "evals", CHOICES, rows)
    monkeypatch.setattr(evaluate, "EVALS", tmp_path / "evals")
    colours = BenchmarkConfig(name="colours", task="colours", limit=2)
    bench.run(half_right, monkeypatch, benchmarks=(colours,))
    # Whatever the model finds likelier, it is right for one of the two labels.
    assert bench.scores()["acc"].value == 0.5
    assert bench.scores()["acc"].n == 2
    assert bench.sampler is not None and bench.sampler.calls == []


def test_registry_tasks_load_by_name_and_unknown_names_list_near_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from lm_eval.tasks import manager

    from factory.evaluation.registry_tasks import Registry

    # One folder of lm-eval's registry stands for all of it: 14 000 files take ten seconds.
    monkeypatch.setattr(manager, "__file__", str(Path(manager.__file__).parent / "gsm8k" / "x"))
    (tmp_path / "evals").mkdir()
    registry = Registry(tmp_path / "evals", seed=0)
    settings: dict[str, Any] = {"sampling": None, "is_raw": False, "limit": None}
    rows = datasets.Dataset.from_list([{"question": f"{i}?", "answer": "#### 1"} for i in range(9)])
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: {"train": rows, "test": rows})
    run = registry.run_of("gsm", "gsm8k", **settings)
    assert (run.name, run.version, run.samples) == ("gsm.greedy", "3.0", 1)

    def offline(**_: object) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"'gsm8k': its data cannot be loaded .*no route"):
        registry.run_of("gsm", "gsm8k", **settings)
    with pytest.raises(RecipeError, match=r"task 'gms8k': neither .*near names: .*gsm8k"):
        registry.run_of("gsm", "gms8k", **settings)


def test_another_version_of_a_task_than_the_one_meant_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gsm8k = BenchmarkConfig(name="gsm8k", task="gsm8k_100", version="2", limit=1)
    with pytest.raises(RecipeError, match="gsm8k: version 2 is meant, its task is of version 1"):
        bench.run(half_right, monkeypatch, benchmarks=(gsm8k,))
