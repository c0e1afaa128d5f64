"""The card of a published folder and its scores in the hub's formats, made from data only.

Whatever a model, a data set or a recipe wrote is escaped: `report.text` is the one way in.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from factory.core.artifacts import Artifact, find
from factory.core.files import write_file
from factory.core.jsonl import read_records
from factory.core.readable import count, figure, percent, plural, span
from factory.core.records import EvalSample, Score
from factory.evaluation.asked import is_protected
from factory.models.transformers4 import VERSION
from factory.publish.earlier import limits
from factory.publish.licences import Source, Terms
from factory.publish.lineage import LINEAGE, Origin
from factory.report.markdown import markdown_block, table
from factory.report.markdown import markdown_text as plain
from factory.text.chat import PromptConfig

SHOWN = (
    "source", "learning_rate", "epochs", "steps", "batch", "context", "prompts", "group", "kl",
    "temperature", "samples", "limit", "outcomes", "max_per_problem", "lora",
)  # fmt: skip
"""Settings worth a reader's first look; all of them stand in recipe.json."""

LONGEST_QUESTION = 120
"""Characters of a question that the example of a call may hold; ours."""


@dataclass(frozen=True)
class Card:
    """What a model card says."""

    name: str
    address: str
    """What transformers and vLLM load it by: the folder's name, or ORG/NAME on a hub."""
    artifact: Artifact
    origins: Sequence[Origin]
    sources: Sequence[Source]
    terms: Terms
    prompt: PromptConfig
    scores: Sequence[Artifact]


def write_card(card: Card, folder: Path) -> None:
    """README.md, and `.eval_results/*.yaml` for benchmarks that are whole hub data sets."""
    parts = [
        front_matter(card),
        f"# {plain(card.name)}",
        _summary(card),
        *(f"**{plain(notice)}**" for notice in card.terms.notices),
        "## Scores\n\n" + (scores_text(card.scores) if card.scores else "It was not measured."),
        "## What was asked\n\n" + benchmarks_text(card.scores) if card.scores else "",
        "## How to run it\n\n" + _running(card, folder),
        "## How it was made\n\n" + origins_table(card.origins),
        "## Licences\n\n" + licences_text(card.sources, card.terms),
        "## Limits\n\n" + _limits(card),
        _example(card.scores),
        "## How to check it\n\n" + CHECKING,
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_file(folder / "README.md", text)
    _write_eval_results(card, folder)


def add_gaps(folder: Path, gaps: Sequence[str]) -> None:
    """Say at the end of a card that its folder is a private export, and what others would miss."""
    path = folder / "README.md"
    lines = "\n".join(f"- {plain(gap)}" for gap in gaps) or "- nothing"
    head = "## Private export\n\nWritten by publish --private, for one's own use. It lacks:"
    text = f"\n{head}\n\n{lines}\n"
    write_file(path, path.read_text(encoding="utf-8") + text)


CHECKING = (
    f"`{LINEAGE}` holds the way from prompts to traces, filters, checkpoint and scores with the "
    "sha256 of every file, and under `files` that of every file here. distill-factory's `factory "
    "verify FOLDER` compares them; `factory verify FOLDER --file X` says where in the lineage a "
    "file of yours stands. "
    "`recipe.json` makes all of it again; `gate.json` says what was tried before this was "
    "published."
)


def front_matter(card: Card) -> str:
    """YAML for the hub, written by a dumper, with every score as `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=_hub_set(score, made) or score.benchmark,
            dataset_name=f"{score.benchmark}, version {score.version}, n = {score.n}",
            metric_type=score.metric,
            metric_value=round(100 * score.value, 2),
            metric_name=f"{score.metric}, %, k = {score.k}, 95 % {span(score.low, score.high)}",
        )
        for made in card.scores
        for score in read_records(made.file("scores.jsonl"), Score)
    ]
    base = [source.what for source in card.sources if source.role == "base" and "/" in source.what]
    data = ModelCardData(
        license=card.terms.licence,
        base_model=base[0] if base else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distill-factory", "reasoning"],
        model_name=card.name,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _summary(card: Card) -> str:
    manifest = card.artifact.manifest
    whats = {name.name: name.what for name in card.sources}
    wrote = trace_writers(card.artifact.fingerprint, card.origins)
    named = ", ".join(f"{name} ({whats[name]})" if name in whats else name for name in wrote)
    rows = manifest.metrics.get("rows")
    said = [f"The checkpoint of stage {manifest.stage!r} ({card.artifact.name}) of a "
            "distill-factory recipe", _base(card)]  # fmt: skip
    said.append(f"it learned from {count(rows)} traces" if rows else "")
    said.append(f"the traces were written by {named}" if wrote else "")
    text = "; ".join(part for part in said if part) + "."
    if wrote:
        text += " Names are those of stages, in the table below."
    return plain(text)


def _base(card: Card) -> str:
    """Where the weights started, how many they are, and whether they were rounded before."""
    stages = [source.name for source in card.sources if source.role == "base"]
    origins = [origin for origin in card.origins if origin.name in stages]
    if not origins:
        return ""
    what = next(source.what for source in card.sources if source.name == origins[0].name)
    parameters = origins[0].metrics.get("parameters")
    size = f", {count(parameters / 1e6)} million parameters" if parameters else ""
    is_embedded = (origins[0].config.get("source") or {}).get("type") == "embedded"
    copy = ", out of a copy of four bits a weight (Q4_1)" if is_embedded else ""
    return f"its weights started from {what}{size}{copy}"


def trace_writers(fingerprint: str, origins: Sequence[Origin]) -> list[str]:
    """Names of the models that wrote the traces which an artifact was trained on."""
    by_fingerprint = {origin.fingerprint: origin for origin in origins}
    pending, writers = [by_fingerprint[fingerprint]], []
    while pending:
        for entry in pending.pop().inputs.values():
            source = by_fingerprint[entry]
            if source.kind == "traces":
                pending.append(source)
                reads = [by_fingerprint[inner] for inner in source.inputs.values()]
                models = [origin.name for origin in reads if origin.kind == "model"]
                if models:
                    writers += models if source.stage != "judge" else []  # it only grades them
                elif all(origin.kind != "traces" for origin in reads):
                    stated = (source.config.get("teacher") or {}).get("name")
                    unstated = "a teacher that is not stated"
                    others = unstated if source.stage == "imported" else "people or programs"
                    writers.append(stated or others)
    return list(dict.fromkeys(writers))


def scores_text(scores: Sequence[Artifact]) -> str:
    """Every score with n, k, interval and protocol; nothing is left out or rounded away."""
    rows = []
    for made in scores:
        for score in read_records(made.file("scores.jsonl"), Score):
            sampling = score.sampling
            how = "greedy" if sampling.temperature == 0 else f"T {sampling.temperature:g}"
            cut = score.outcomes.get("truncated", 0)
            rows.append([
                made.name, score.benchmark, score.metric, percent(score.value),
                span(score.low, score.high), str(score.n), str(score.k),
                f"{how}, top-p {sampling.top_p:g}, {sampling.max_new_tokens} tokens, "
                f"prompt {score.prompt_style}",
                percent(cut / max(1, sum(score.outcomes.values()))),
            ])  # fmt: skip
    header = (
        "evaluation", "benchmark", "metric", "value", "95 % interval", "n", "k", "protocol", "cut",
    )  # fmt: skip
    notes = (
        "n problems with k samples each; intervals are over problems, of one training run with one "
        "seed. pass@1 is the mean over samples; lenient metrics take the last answer that the "
        "text offers. *cut*: answers that ran into the token limit. Questions of the benchmarks "
        "that "
        "come from the same problem sets as the training questions were held out by normalised "
        "text; paraphrases and what the base saw in its own training are not known."
    )
    return table(header, rows) + "\n\n" + notes


def benchmarks_text(scores: Sequence[Artifact]) -> str:
    """What each benchmark asks: the sources of its problems with their settings, or its task."""
    rows: dict[str, str] = {}
    for made in scores:
        for number, benchmark in enumerate(made.manifest.config["benchmarks"]):
            entry = made.manifest.inputs.get(f"benchmarks.{number}.problems")
            problems = None if entry is None else find(made.path.parent, entry.fingerprint)
            if problems is None:
                rows[benchmark["name"]] = (
                    f"the task {benchmark['task']} of lm-eval or of distill-factory's evals/"
                )
                continue
            sources = problems.manifest.config["sources"]
            sources_asked = [
                s for s in sources if benchmark.get("source") in (None, _label(s))
            ] or sources
            rows[benchmark["name"]] = "; ".join(_source(source) for source in sources_asked)
    return table(("benchmark", "asks"), [[name, text] for name, text in rows.items()])


def _source(source: Mapping[str, Any]) -> str:
    """A source of problems: its name, the settings that shape them, and how many."""
    name = next(source[key] for key in ("family", "id", "name", "path", "type") if key in source)
    what = Path(name).name if "path" in source else name
    shaped = ", ".join(f"{key} {value}" for key, value in (source.get("settings") or {}).items())
    counts = [
        f"{words}: {'all' if source[key] is None else count(source[key])}"
        for key, words in (("train", "to train on"), ("held_out", "held out"))
        if source.get(key, 0) != 0
    ]
    return "; ".join(part for part in (f"{source['type']} {what}", shaped, *counts) if part)


def _running(card: Card, folder: Path) -> str:
    said = ["Ask one question a conversation, as training did."]
    if card.prompt.system is None:
        said.append("Training showed no system message; send none.")
    if card.prompt.prefill:
        said.append(f"The template opens the answer with {plain(card.prompt.prefill)}.")
    said.append(
        "The sampling of R1's evaluation is in `generation_config.json`. "
        "`folder` is where these files lie."
    )
    said.append(plain(_versions(folder)))
    shown = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{card.address}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
question = [{{"role": "user", "content": {json.dumps(_question(card.scores))}}}]
inputs = tokenizer.apply_chat_template(
    question, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs)
print(tokenizer.decode(answer[0][inputs["input_ids"].shape[1]:]))"""
    python = f"```python\n{shown}\n```"
    return "\n\n".join([" ".join(said), python, f"```sh\nvllm serve {card.address}\n```"])


def _versions(folder: Path) -> str:
    """Which releases of transformers the folder was tried in, and how."""
    tried = f"Tried in transformers {version('transformers')}: gate.json says how."
    missing = limits(folder)
    if missing:
        return f"{tried} It needs transformers 5: {'; '.join(missing)}."
    return (
        f"{tried} The keys that transformers 4 reads are in the files too; this model was not run "
        f"there, tiny models of its type gave equal logits in {VERSION}."
    )


def origins_table(origins: Sequence[Origin]) -> str:
    """One row an artifact, inputs first."""
    names = {origin.fingerprint: origin.name for origin in origins}
    rows = []
    for entry in origins:
        reads = ", ".join(dict.fromkeys(names[inner] for inner in entry.inputs.values()))
        settings = ", ".join(
            f"{key} {_setting(entry.config[key])}"
            for key in SHOWN
            if entry.config.get(key) not in (None, (), [], {})
        )
        if entry.kind == "problems":
            settings = "; ".join(_source(source) for source in entry.config["sources"])
        code = entry.commit[:12] + (" with local changes" if entry.dirty else "")
        rows.append([entry.name, entry.stage, reads, settings, entry.fingerprint[:12], code])
    header = ("stage", "kind", "reads", "some settings", "fingerprint", "code")
    return table(header, rows)


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(inner) for inner in value.values() if inner is not None)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return figure(value) if isinstance(value, float) else str(value)


def licences_text(sources: Sequence[Source], terms: Terms) -> str:
    """What it is published under, and a row for every source."""
    rows = [[source.role, source.name, source.what, source.licence] for source in sources]
    said = f"Published under {plain(terms.licence)}."
    if terms.licence in ("unknown", "other"):
        said = "Not for others to use: a licence of what went in is missing or may not allow it."
    said += " What went in, as its source states it:"
    return said + "\n\n" + table(("role", "stage", "what", "licence"), rows)


def _limits(card: Card) -> str:
    benchmarks = {
        score.benchmark
        for made in card.scores
        for score in read_records(made.file("scores.jsonl"), Score)
    }
    measured = f"Measured on {', '.join(sorted(benchmarks))} only" if benchmarks else "Not measured"
    lines = [
        f"{measured}: nothing is known of other tasks, languages, or safety.",
        "Its reasoning may be wrong where its answer is right, and its answer may be wrong.",
        "One training run with one seed; another run may score differently.",
    ]
    return "\n".join(f"- {plain(line)}" for line in lines)


def _example(scores: Sequence[Artifact]) -> str:
    """The first greedy answer of the first evaluation, right or wrong; empty without one."""
    for made, sample in _shown(scores):
        trace = sample.trace
        return "\n\n".join([
            "## An answer, as it came",
            f"The first greedy answer of {plain(made.name)}, whatever it is; graded "
            f"{plain(trace.verdict.outcome)}, {plural(trace.completion_tokens, 'token')}.",
            markdown_block(trace.question),
            markdown_block(trace.completion),
        ])  # fmt: skip
    return ""


def _question(scores: Sequence[Artifact]) -> str:
    """A question as the model was asked it: the first that fits on a line."""
    questions = (sample.trace.question for _, sample in _shown(scores))
    return next((text for text in questions if len(text) <= LONGEST_QUESTION), "What is 2 + 3?")


def _shown(scores: Sequence[Artifact]) -> Iterator[tuple[Artifact, EvalSample]]:
    """Greedy answers, but of benchmarks whose authors ask that no question is shown."""
    for made in scores:
        for sample in read_records(made.file("samples.jsonl"), EvalSample):
            if sample.mode == "greedy" and not is_protected(
                [sample.benchmark, sample.trace.problem_id]
            ):
                yield made, sample


def _hub_set(score: Score, made: Artifact) -> str | None:
    """The hub data set that is this benchmark as a whole, None where it is not a whole one."""
    for number, benchmark in enumerate(made.manifest.config["benchmarks"]):
        entry = made.manifest.inputs.get(f"benchmarks.{number}.problems")
        if (
            benchmark["name"] == score.benchmark
            and entry is not None
            and not benchmark.get("limit")
        ):
            problems = find(made.path.parent, entry.fingerprint)
            sources = [] if problems is None else problems.manifest.config.get("sources", [])
            label = benchmark.get("source")
            own = [s for s in sources if label is None or _label(s) == label]
            if len(own) == 1 and own[0]["type"] == "hub" and own[0]["held_out"] is None:
                return str(own[0]["id"])
    return None


def _label(source: Mapping[str, Any]) -> str:
    """What problems of a hub data set name as their source."""
    return str(source.get("id", "")).rpartition("/")[2]


def _write_eval_results(card: Card, folder: Path) -> None:
    """The hub's own format, one file a data set; nothing for benchmarks that are no hub data set.

    A score on part of a data set, or on questions of our own, must not stand on its leaderboard.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries: dict[str, list[EvalResultEntry]] = {}
    for made in card.scores:
        for score in read_records(made.file("scores.jsonl"), Score):
            hub_set = _hub_set(score, made)
            if hub_set is None or score.metric not in ("pass@1", "greedy"):
                continue
            notes = (
                f"{score.metric}, percent, n = {score.n}, k = {score.k}, 95 % interval "
                f"{span(score.low, score.high)}, temperature {score.sampling.temperature:g}, "
                f"top-p {score.sampling.top_p:g}, {score.sampling.max_new_tokens} tokens"
            )
            entry = EvalResultEntry(
                hub_set, score.benchmark, round(100 * score.value, 2), notes=notes
            )
            entries.setdefault(hub_set, []).append(entry)
    for hub_set, own in entries.items():
        path = folder / ".eval_results" / f"{hub_set.replace('/', '_')}.yaml"
        path.parent.mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml(own), sort_keys=False)
        write_file(path, text)
