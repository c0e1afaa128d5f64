"""Inside a sandbox: runs a candidate's program, then answers calls of its function.

A line `[name, args]` in, a line `{"value": ...}` or `{"error": ...}` out, both by plain.py, after
the mark given as first argument if there is one. What
the program prints goes nowhere: this process's output is the answers alone, and what the program
does to this process can change no more than its own answers.
"""

import os
import sys

sys.path.insert(0, "/program" if os.path.isdir("/program") else os.path.dirname(__file__))
import plain

answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
questions = os.fdopen(os.dup(0), "r", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


os.dup2(1, 2)


def answer(line):
    name, arguments = plain.load(line)
    if broken:
        return plain.dump({"error": broken})
    try:
        return plain.dump({"value": namespace[name](*arguments)})
    except plain.NotPlainError as error:
        return plain.dump({"error": str(error)})
    except BaseException as error:
        return plain.dump({"error": error_text(error)})


def error_text(error):
    return f"{type(error).__name__}: {error}"[:300]


with open(os.path.join(sys.path[0], "main.py"), encoding="utf-8") as file:
    source = file.read()
namespace = {"__name__": "__main__", "__builtins__": __builtins__}
broken = ""
try:
    exec(compile(source, "main.py", "exec"), namespace)
except BaseException as error:
    broken = f"the program does not run: {error_text(error)}"
mark = "".join(f"{part} " for part in sys.argv[1:])
for line in questions:
    answers.write(f"{mark}{answer(line)}\n")
    answers.flush()
