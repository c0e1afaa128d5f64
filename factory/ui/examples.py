"""Two commands to paste for each verb, at the end of its help."""

from collections.abc import Iterable
from typing import Any

EXAMPLES = {
    "build": ("build smoke", "build mine.yaml --machine gpu --set stages.zero.steps=100"),
    "help": ("help", "help plan"),
    "init": (
        "init mine --traces traces.jsonl --student embedded",
        "init r1 --traces hub:ME/TRACES --student hub:ME/MODEL",
    ),
    "pin": ("pin mine.yaml", "pin mine.yaml --check"),
    "submit": ("submit mine.yaml --machine slurm.yaml --dry-run", "submit mine.yaml"),
    "rehearse": ("rehearse quickstart", "rehearse mine.yaml"),
    "plan": ("plan quickstart", "plan mine.yaml --cost --machine gpu"),
    "report": ("report smoke", "report mine.yaml --store elsewhere"),
    "show": ("show student", "show traces --samples 3"),
    "demo": ("demo", "demo --json"),
    "why": ("why stages.zero.kl", "why stages.zero.steps quickstart"),
    "ls": ("ls", "ls --store elsewhere --json"),
    "prune": ("prune", "prune --keep mine.yaml --yes"),
    "chat": ("chat student", "chat student --store elsewhere"),
    "serve": ("serve student", "serve student --port 8001"),
    "publish": (
        "publish student --to ./mine-hf --private",
        "publish student --to hub:ME/MINE --yes",
    ),
    "verify": ("verify ./mine-hf", "verify ./mine-hf --json"),
    "review": ("review mine.yaml --reviewer ada", "review mine.yaml --reviewer ada --status"),
    "audit": ("audit traces", "audit traces --store elsewhere"),
    "watch": ("watch", "watch mine.yaml --port 8800"),
    "index": ("index", "index store-a store-b --out index.html"),
    "grade": ("grade answers.jsonl --out graded.jsonl", "grade stored.jsonl --form r1 --json"),
    "eval": ("eval embedded --suite offline", "eval student --suite offline --against base --json"),
    "compare": ("compare eval_student eval_base", "compare eval_student --published"),
    "diff": ("diff store-a store-b", "diff one/report.json other/report.json --json"),
    "rescore": ("rescore eval_student", "rescore eval_student --json"),
    "audit-graders": ("audit-graders --kind math", "audit-graders --answers stored.jsonl --json"),
    "plugins": ("plugins", "plugins --plugin my_rewards.py --json"),
    "reference": ("reference --out reference.md", "reference --plugin my_rewards.py"),
    "setup": ("setup", "setup --help"),
    "doctor": ("doctor", "doctor --json"),
}


def add_examples(commands: Iterable[Any]) -> None:
    """Close each verb's help with its examples."""
    for command in commands:
        name = command.name or command.callback.__name__
        command.epilog = "\n\n".join(f"factory {example}" for example in EXAMPLES[name])
