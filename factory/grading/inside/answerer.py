"""Inside a sandbox: runs a candidate's program, then answers calls of its function.

A line `[name, args]` or `[name, args, keywords]` in, a line `{"value": ...}` or `{"error": ...}`
out, both by plain.py, after the mark given as second argument if there is one. `args` comes with a
value where a list, set or dict was given, since the call may have changed it; `raised` comes with
an error, the name of the built-in exception that it is. The first argument is the processor time of
each call. What the program prints goes nowhere: this process's output is the answers alone, and
what the program does to this process can change no more than its own answers.
"""

import builtins
import os
import signal
import sys
import types

sys.path.insert(0, "/program" if os.path.isdir("/program") else os.path.dirname(__file__))
import plain

answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
questions = os.fdopen(os.dup(0), "r", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


os.dup2(1, 2)
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
LEETCODE = """
from typing import *
from collections import *
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from functools import cache, lru_cache, reduce
from heapq import heapify, heappop, heappush
from math import inf
"""
"""What stands before programs of the form `class Solution`, as their judges have it."""


def function(name):
    if name not in namespace and "Solution" in namespace:
        return getattr(namespace["Solution"](), name)
    if name not in namespace:
        raise NameError(f"the program defines no {name}")
    return namespace[name]


def answer(line):
    name, arguments, *rest = plain.load(line)
    keywords = rest[0] if rest else {}
    if broken:
        return plain.dump({"error": broken})
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reply = {"value": function(name)(*arguments, **keywords)}
        if any(type(item) in (list, dict, set) for item in [*arguments, *keywords.values()]):
            reply["args"], reply["keywords"] = arguments, keywords
        return plain.dump(reply)
    except plain.NotPlainError as error:
        return plain.dump({"error": str(error)})
    except BaseException as error:
        return plain.dump({"error": error_text(error), "raised": builtin(error)})
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def builtin(error):
    """The name of the nearest built-in class of an exception."""
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            return kind.__name__
    return "Exception"


def error_text(error):
    return f"{type(error).__name__}: {error}"[:300]


with open(os.path.join(sys.path[0], "main.py"), encoding="utf-8") as file:
    source = file.read()
# Not __main__: what stands under that guard is not asked for.
module = types.ModuleType("candidate")
sys.modules["candidate"] = module
namespace = module.__dict__
broken = ""
try:
    if "class Solution" in source:
        exec(LEETCODE, namespace)
    exec(compile(source, "main.py", "exec"), namespace)
except BaseException as error:
    broken = f"the program does not run: {error_text(error)}"
mark = "".join(f"{part} " for part in sys.argv[2:])
for line in questions:
    answers.write(f"{mark}{answer(line)}\n")
    answers.flush()
