"""The process in which plug-in rewards run: a JSON request a line in, a JSON answer a line out."""

import json
import os
import sys

from factory.core.errors import FactoryError
from factory.core.plugin_files import PluginFile, load_same
from factory.rewards.reward import GradedCompletion, component, settings_of


def main(plugins: str) -> None:
    """Answer until standard input closes; whatever a plug-in prints goes nowhere."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    load_same([PluginFile.model_validate(row) for row in json.loads(plugins)])
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        request = json.loads(line)
        name = request["name"]
        completion = GradedCompletion.model_validate(request["completion"], strict=False)
        try:
            answer = {"value": component(name, completion, settings_of(name, request["settings"]))}
        except FactoryError as error:
            answer = {"error": str(error)}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
