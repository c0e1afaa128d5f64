"""A tiny student passes the gate; every planted fault is refused with its reason."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.cli import app
from factory.core.artifacts import Artifact
from factory.core.errors import ArtifactError
from factory.core.jsonl import write_records
from factory.core.machine import Machine
from factory.models.tiny import byte_tokenizer
from factory.publish.folder import Outcome, Target, publish, refused
from factory.publish.gate import (
    Check,
    Subject,
    as_gaps,
    examine_settings,
    examine_text,
    examine_weights,
    served_text,
)
from factory.publish.licences import Terms, sources
from factory.publish.lineage import faults, places_of, read_lineage
from factory.publish.template import serving_template
from factory.stages.turns import FORMATS
from factory.text.chat import OutputForm, PromptConfig, Style, render
from tests import published
from tests.hub import Hub, hub
from tests.published import PREFILL
from tests.resealing import resealed

MACHINE = Machine(device="cpu", engine="transformers")
__all__ = ["hub"]


@dataclass(frozen=True)
class Made:
    store: Path
    artifacts: dict[str, Artifact]
    student: Path
    folder: Path
    outcome: Outcome

    def subject(self, folder: Path) -> Subject:
        prompt = PromptConfig(prefill=PREFILL)
        scores = [self.artifacts["eval_student"]]
        terms = Terms("apache-2.0", (), ())
        return Subject(folder, self.artifacts["student"], prompt, scores, terms, (self.store,))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("publishing")
    student = published.trained_student(folder / "student")
    store, artifacts = published.make_store(folder, student)
    target = folder / "tiny-seven"
    outcome = publish(artifacts["student"], Target(target), MACHINE, licences={}, is_trial=False)
    return Made(store, artifacts, student, target, outcome)


def test_a_student_that_learned_passes_every_check(made: Made) -> None:
    assert refused(made.outcome.checks) == []
    assert [check.name for check in made.outcome.checks if check.status == "not run"] == ["vllm"]
    assert {
        "README.md", "chat_template.jinja", "config.json", "gate.json", "generation_config.json",
        "lineage.json", "model.safetensors", "recipe.json", "tokenizer.json",
        "tokenizer_config.json",
    } == set(made.outcome.files)  # fmt: skip
    assert faults(made.folder) == []


def test_a_stranger_gets_the_answer_by_transformers_own_calls(made: Made) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    settings = model.generation_config
    assert (settings.temperature, settings.top_p, settings.do_sample) == (0.6, 0.95, True)
    question = [{"role": "user", "content": "What is 1 + 6?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**inputs, do_sample=False)
    said = tokenizer.decode(out[0][inputs["input_ids"].shape[1] :])
    assert said == published.ANSWER.removeprefix(PREFILL) + "<|im_end|>"


TEMPLATES = {
    "chatml": FORMATS["chatml"].template,
    "llama3": FORMATS["llama3"].template,
    # As Qwen2.5's and SmolLM2's: a system message of their own where there is none.
    "own system": "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}" + FORMATS["chatml"].template,
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize(
    "prompt",
    [
        PromptConfig(),
        PromptConfig(prefill="<think>\n"),
        PromptConfig(system='Say "é" \\ ok', prefill='"{{ x }}"'),
        PromptConfig(form=OutputForm(opening="<think>", closing="</think>"), prefill="<think>"),
    ],
)
def test_a_served_question_is_the_trained_one_and_earlier_thoughts_are_dropped(
    template: str, prompt: PromptConfig
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template + "\n"
    trained = render("Why?", prompt, tokenizer)
    tokenizer.chat_template = serving_template(tokenizer, prompt)
    assert served_text(tokenizer, "Why?") == trained
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think> long thoughts </think> short"},
        {"role": "user", "content": "b"},
    ]
    text = str(tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True))
    assert "long thoughts" not in text and "short" in text
    assert text.endswith(prompt.prefill)


@pytest.mark.parametrize("style", ["zero", "reflect"])
def test_a_style_that_no_chat_asks_in_is_refused(style: Style) -> None:
    with pytest.raises(ArtifactError, match=f"trained with prompt style '{style}'"):
        serving_template(byte_tokenizer(), PromptConfig(style=style))


def test_the_card_states_every_score_with_its_protocol_and_escapes_the_rest(made: Made) -> None:
    from huggingface_hub import ModelCard

    text = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "| sevens | greedy | 100\\.0 % | \\[61.0, 100.0\\] | 6 | 1 |" in text
    assert "opens the answer with &lt;think>" in text
    asks = "| sevens | reasoning\\_gym chain\\_sum; to train on: 4; held out: 6 |"
    assert asks in text
    assert '"content": "What is 0 + 7?"' in text
    data = ModelCard.load(made.folder / "README.md").data.to_dict()
    assert data["license"] == "apache-2.0"
    metric = data["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == 100.0 and "k = 1" in metric["name"]
    assert not (made.folder / ".eval_results").exists()


def test_the_published_recipe_makes_the_same_artifacts(made: Made) -> None:
    plan = make_plan(load_recipe(made.folder / "recipe.json"))
    assert {step.name: step.fingerprint for step in plan} == {
        name: artifact.fingerprint for name, artifact in made.artifacts.items()
    }


def test_any_file_finds_its_place_in_the_lineage(made: Made) -> None:
    lineage = read_lineage(made.folder)
    kept = made.artifacts["kept"].file("traces.jsonl")
    assert "kept/traces.jsonl" in places_of(kept, lineage)
    assert places_of(made.store / ".." / "recipe.json", lineage) == []


def plant_wrong_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8").replace(PREFILL, ""), encoding="utf-8")


def plant_missing_stop_token(folder: Path) -> None:
    path = folder / "generation_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, "eos_token_id": 0}), encoding="utf-8")


def plant_other_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, "eos_token": "<|endoftext|>"}), encoding="utf-8")


def plant_pickle(folder: Path) -> None:
    (folder / "optimizer.json").write_bytes(pickle.dumps({"lr": 1}))


def plant_secret(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"token": "hf_' + "aB3" * 12 + '"}', encoding="utf-8")


def plant_path(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"path": "/home/someone/x"}', encoding="utf-8")


def plant_markup(folder: Path) -> None:
    with (folder / "README.md").open("a", encoding="utf-8") as file:
        file.write("the model said <script>alert(1)</script>\n")


def plant_changed_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))


def plant_broken_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def plant_new_class(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    new = {**fields, "tokenizer_class": "TokenizersBackend"}
    path.write_text(json.dumps(new), encoding="utf-8")


def plant_new_keys_alone(folder: Path) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    del fields["rope_theta"]
    path.write_text(json.dumps(fields), encoding="utf-8")


PLANTED: list[tuple[Callable[[Path], None], str, str]] = [
    (plant_wrong_template, "template", "training showed"),
    (plant_missing_stop_token, "stop token", "it would never stop"),
    (plant_other_end, "stop token", "'<|im_end|>' in training"),
    (plant_new_class, "transformers 4", "has no TokenizersBackend"),
    (plant_new_keys_alone, "transformers 4", "config.json: rope_theta is missing"),
    (plant_pickle, "code", "optimizer.json: a pickle"),
    (plant_secret, "secrets", "recipe.json: looks like a Hugging Face token"),
    (plant_path, "paths", "recipe.json: names a folder of this machine"),
    (plant_markup, "card", "raw HTML"),
    (plant_changed_byte, "weights", "is not the checkpoint's"),
    (plant_broken_header, "weights", "cannot be read"),
]


@pytest.mark.parametrize(
    ("plant", "name", "reason"), PLANTED, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_planted_fault_is_refused_with_its_reason(
    made: Made, tmp_path: Path, plant: Callable[[Path], None], name: str, reason: str
) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "planted")
    for own in ("lineage.json", "gate.json"):
        (folder / own).unlink()
    assert refused(_examine(made.subject(folder))) == []
    plant(folder)
    failed = {check.name: check.reason for check in refused(_examine(made.subject(folder)))}
    assert reason in failed[name]
    assert len(failed) == 1, failed


def _examine(subject: Subject) -> list[Check]:
    return [*examine_text(subject), *examine_settings(subject), examine_weights(subject)]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (plant_changed_byte, "model.safetensors: its content differs"),
        (plant_pickle, "optimizer.json: is not in the lineage"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: is missing"),
        (plant_markup, "README.md: has"),
    ],
)
def test_verify_names_what_changed_after_publishing(
    made: Made, tmp_path: Path, change: Callable[[Path], None], fault: str
) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "changed")
    (folder / ".gitattributes").write_text("added by a hub", encoding="utf-8")
    assert faults(folder) == []
    change(folder)
    assert [line for line in faults(folder) if line.startswith(fault)]
    done = CliRunner().invoke(app, ["verify", str(folder), "--json"])
    assert done.exit_code == 2 and fault in " ".join(done.stderr.split())
    assert [line for line in json.loads(done.stdout)["faults"] if line.startswith(fault)]


def test_verify_finds_a_lineage_that_was_changed_itself(made: Made, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "changed")
    path = folder / "lineage.json"
    digest = made.artifacts["kept"].manifest.files["traces.jsonl"].sha256
    path.write_text(path.read_text(encoding="utf-8").replace(digest, "0" * 64), encoding="utf-8")
    assert any("its content is not that of its files" in line for line in faults(folder))


def test_weights_cut_into_shards_are_the_same_tensors(made: Made, tmp_path: Path) -> None:
    from factory.publish.export import write_weights

    folder = shutil.copytree(made.folder, tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    write_weights(made.artifacts["student"], folder, shard_bytes=150_000)
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert examine_weights(made.subject(folder)).status == "passed"


def test_other_weights_and_a_model_that_never_stops_do_not_pass_when_run(
    made: Made, tmp_path: Path
) -> None:
    from factory.models.tiny import tiny_model
    from factory.publish.running import examine_running

    folder = shutil.copytree(made.folder, tmp_path / "other")
    tiny_model("llama", seed=9).save_pretrained(folder)
    shutil.copyfile(made.folder / "generation_config.json", folder / "generation_config.json")
    checks = {
        check.name: check for check in examine_running(made.subject(folder), MACHINE, tokens=64)
    }
    assert "nats below the checkpoint's choice" in checks["transformers"].reason
    assert checks["stops"].status == checks["benchmark"].status == "refused"
    assert "does not stop where the checkpoint does" in checks["stops"].reason
    assert "outside the interval" in checks["benchmark"].reason


def test_answers_that_mostly_ran_into_the_limit_are_refused(made: Made, tmp_path: Path) -> None:
    from factory.core.records import EvalSample
    from factory.publish.running import examine_running

    scores = made.artifacts["eval_student"]
    copy = tmp_path / "store" / scores.path.name
    shutil.copytree(made.store, tmp_path / "store")
    samples = [
        EvalSample.model_validate_json(line)
        for line in (copy / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    cut = [
        row.model_copy(update={"trace": row.trace.model_copy(update={"finish_reason": "length"})})
        for row in samples[:3]
    ]
    write_records(copy / "samples.jsonl", [*cut, *samples[3:]])
    subject = replace(made.subject(made.folder), scores=[resealed(Artifact(copy, scores.manifest))])
    checks = {check.name: check for check in examine_running(subject, MACHINE, tokens=64)}
    assert "50.0 % of 6 recorded answers" in checks["stops"].reason
    assert "has not learned to stop" in checks["stops"].reason
    assert checks["transformers"].status == "passed"


def test_a_licence_that_is_not_known_is_refused_until_it_is_stated(
    made: Made, tmp_path: Path
) -> None:
    source = {"type": "local", "path": str(made.student)}
    _, artifacts = published.make_store(tmp_path, made.student, base={"source": source})
    student, target = artifacts["student"], Target(tmp_path / "student")
    outcome = publish(student, target, MACHINE, licences={}, is_trial=True)
    (failed,) = refused(outcome.checks)
    assert failed.name == "licences" and "--licence base=..." in failed.reason
    stated = publish(student, target, MACHINE, licences={"base": "MIT"}, is_trial=True)
    assert refused(stated.checks) == [] and stated.terms.licence == "mit"
    llama = publish(student, target, MACHINE, licences={"base": "llama3.1"}, is_trial=True)
    assert "begins with 'Llama'" in refused(llama.checks)[0].reason
    assert not target.folder.exists()


def test_what_a_reward_model_learned_from_needs_a_licence_too(made: Made) -> None:
    student, traces = made.artifacts["student"], made.artifacts["traces"]

    def licence_of(source: dict[str, str]) -> str:
        changed = {"stage": "pairs", "name": "liked", "config": {"source": source}}
        liked = Artifact(traces.path, traces.manifest.model_copy(update=changed))
        rows = sources(student, [made.artifacts["base"], liked, student], {})
        return next(row.licence for row in rows if row.name == "liked")

    assert licence_of({"type": "hub", "id": "org/likes"}) == ""
    assert licence_of({"type": "hub", "id": "org/likes", "licence": "MIT"}) == "mit"
    assert licence_of({"type": "local", "path": "recipes/data/general_pairs.jsonl"}) == "apache-2.0"


def test_a_trial_shows_and_leaves_nothing(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "seven"
    options = ["--to", str(target), "--store", str(made.store)]
    done = CliRunner().invoke(app, ["publish", "student", *options])
    assert done.exit_code == 0, done.output
    assert "model.safetensors" in done.output and "would be published" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_hub_gets_what_was_looked_at_and_a_second_call_finds_it(
    made: Made, tmp_path: Path, hub: Hub
) -> None:
    store = shutil.copytree(made.store, tmp_path / "store")
    machine = tmp_path / "machine.yaml"
    machine.write_text("{device: cpu, engine: transformers}\n", encoding="utf-8")
    options = ["--to", "hub:sevens/tiny", "--store", str(store), "--machine", str(machine)]

    def call(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["publish", "student", *options, *more])
        return done.exit_code, " ".join(done.output.split())

    status, said = call()
    folder = store / "published" / "sevens" / "tiny"
    assert status == 0 and "would be uploaded" in said and faults(folder) == []
    assert hub.repositories == {}
    status, said = call("--yes")
    assert status == 0 and "written before" in said and "every file compared" in said
    there = hub.files("sevens/tiny")
    assert there == {p.relative_to(folder).as_posix(): p.read_bytes() for p in _files(folder)}
    assert b'folder = "sevens/tiny"' in there["README.md"]
    assert "was there already" in call("--yes")[1]
    (folder / "README.md").write_text("better", encoding="utf-8")
    status, said = call("--yes")
    assert status == 2 and "changed since the gate let it through: README.md" in said


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_cannot_be_published_says_why(made: Made, tmp_path: Path) -> None:
    def attempt(name: str, target: Path) -> None:
        publish(made.artifacts[name], Target(target), MACHINE, licences={}, is_trial=True)

    with pytest.raises(ArtifactError, match="holds problems; models and traces"):
        attempt("sevens", tmp_path / "x")
    with pytest.raises(ArtifactError, match="exists already"):
        attempt("student", made.folder)
    store = shutil.copytree(made.store, tmp_path / "store")
    shutil.rmtree(store / made.artifacts["kept"].path.name)
    unchanged = made.artifacts["student"]
    student = Artifact(store / unchanged.path.name, unchanged.manifest)
    with pytest.raises(ArtifactError, match=r"its input traces .* the lineage is not whole"):
        publish(student, Target(tmp_path / "x"), MACHINE, licences={}, is_trial=True)


def test_a_checkpoint_without_scores_is_refused(made: Made, tmp_path: Path) -> None:
    target = Target(tmp_path / "x")
    outcome = publish(made.artifacts["base"], target, MACHINE, licences={}, is_trial=True)
    assert [check.name for check in refused(outcome.checks)] == ["scores"]


def test_traces_become_a_data_set_that_reads_back(made: Made, tmp_path: Path) -> None:
    from datasets import load_dataset

    target = tmp_path / "sevens-traces"
    outcome = publish(made.artifacts["kept"], Target(target), MACHINE, licences={}, is_trial=False)
    assert refused(outcome.checks) == []
    rows = load_dataset(str(target), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["answer"] for row in rows] == ["7"] * 4
    assert rows[0]["seed"] == str(2**63 + 5)
    assert faults(target) == []


@pytest.mark.parametrize(
    ("field", "text", "name"),
    [
        ("completion", "my token is hf_" + "aB3" * 12, "row secrets"),
        ("reasoning", "see /home/someone/notes", "row paths"),
        ("question", "what  is 0 + 7?", "held out"),
    ],
)
def test_a_row_that_must_not_be_published_is_named(
    made: Made, tmp_path: Path, field: str, text: str, name: str
) -> None:
    from factory.publish.dataset import write_rows

    kept = made.artifacts["kept"]
    traces = list(kept.traces())
    folder = tmp_path / "traces"
    folder.mkdir()
    changed = [traces[0].model_copy(update={field: text}), *traces[1:]]
    write_records(folder / "traces.jsonl", changed)
    lineage = [made.artifacts["sevens"]]
    (tmp_path / "out").mkdir()
    checks = write_rows(resealed(Artifact(folder, kept.manifest)), lineage, tmp_path / "out", ())
    (failed,) = refused(checks)
    assert failed.name == name and failed.reason.startswith("row 0")


def test_the_server_listens_on_this_machine_only_and_serves_under_the_stages_name() -> None:
    from factory.sampling.server import server_command, server_environment

    machine = Machine(device="cpu", threads=1, engine_memory_gib=0.4)
    words = server_command("folder", "student", machine, port=8123, max_length=512)
    pairs = dict(pairwise(words))
    assert (pairs["--host"], pairs["--port"]) == ("127.0.0.1", "8123")
    assert (pairs["--served-model-name"], pairs["--max-model-len"]) == ("student", "512")
    assert "--trust-remote-code" not in words and "--no-enable-chunked-prefill" in words
    assert server_environment(machine)["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_a_private_export_names_what_it_lacks_and_refuses_a_broken_folder(
    made: Made, tmp_path: Path
) -> None:
    base, target = made.artifacts["base"], Target(tmp_path / "mine")
    outcome = publish(base, target, MACHINE, licences={}, is_trial=False, is_private=True)
    gaps = [check.name for check in outcome.checks if check.status == "gap"]
    assert "scores" in gaps and not refused(outcome.checks)
    card = (target.folder / "README.md").read_text(encoding="utf-8")
    assert "## Private export" in card and "- scores: base: no evaluation" in card
    assert not faults(target.folder)
    (kept,) = as_gaps([Check(name="weights", status="refused", reason="x")])
    assert kept.status == "refused"
