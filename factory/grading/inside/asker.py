"""Inside another sandbox: runs a benchmark's own check against a function that it only calls.

The check sees a proxy: arguments go out as plain JSON, plain values come back, and built-in
exceptions by name. So whatever the candidate returns, compares as what it is, and nothing of it
runs here. Ends with status 0 if the check passed, 1 if an assertion failed or it stumbled over a
value, 2 if the candidate raised or answered nothing plain, 3 if the check itself is at fault.
"""

import builtins
import os
import sys
from typing import Any, NoReturn

sys.path.insert(0, "/program" if os.path.isdir("/program") else os.path.dirname(__file__))
import plain

questions = os.fdopen(os.dup(1), "w", encoding="utf-8")
answers = os.fdopen(os.dup(0), "rb")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
LONGEST = 1 << 26
calls = 0
raised: list[tuple[BaseException, str]] = []
"""The candidate's latest exception, as it was raised here, and what it said."""


def fail(status, text) -> NoReturn:
    sys.stderr.write(text[:500])
    sys.stderr.flush()
    os._exit(status)


def candidate(*arguments, **keywords):
    global calls
    try:
        question = plain.dump([NAME, list(arguments), keywords])
    except plain.NotPlainError as error:
        fail(3, f"an argument of the check cannot be passed: {error}")
    calls += 1
    try:
        questions.write(question + "\n")
        questions.flush()
    except BrokenPipeError:
        fail(2, "the program ended before it was called")
    line = answers.readline(LONGEST)
    if not line.endswith(b"\n"):
        fail(2, "the program ended before it answered a call")
    try:
        reply = plain.load(line.decode("utf-8"))
    except ValueError as error:
        fail(2, f"the program answered no plain value: {error}")
    if type(reply) is not dict or "value" not in reply:
        error = reply.get("error") if type(reply) is dict else None
        text = error if type(error) is str else "no value"
        kind = exception(reply.get("raised") if type(reply) is dict else None)
        if kind is None:
            fail(2, f"a call failed: {text}")
        error = kind(text.partition(": ")[2])
        raised[:] = [(error, text)]
        raise error
    returned(arguments, reply.get("args"))
    returned(keywords.values(), (reply.get("keywords") or {}).values())
    return reply["value"]


def exception(name) -> Any:
    """The built-in class of that name, if it is an exception that takes a text."""
    kind = getattr(builtins, name, None) if type(name) is str else None
    if not isinstance(kind, type) or not issubclass(kind, (Exception, SystemExit)):
        return None
    return None if issubclass(kind, UnicodeError) else kind


def returned(arguments, after):
    """Put back what the call may have changed in place."""
    for argument, value in zip(arguments, after or (), strict=False):
        if type(argument) is not type(value) or argument == value:
            continue
        if type(argument) is list:
            argument[:] = value
        elif type(argument) in (dict, set):
            argument.clear()
            argument.update(value)


def is_raised(error):
    return bool(raised) and error is raised[0][0]


def check_failed(error):
    text = f"{type(error).__name__}: {error}"
    if is_raised(error):
        fail(2, f"a call failed: {raised[0][1]}")
    is_own = isinstance(error, (NameError, ImportError, SyntaxError))
    fail(3 if is_own or not calls else 1, f"the tests raised {text}")


NAME = sys.argv[1]
with open(os.path.join(sys.path[0], "check.py"), encoding="utf-8") as file:
    source = file.read()
namespace: dict = {"__name__": "check"}
try:
    exec(compile(source, "check.py", "exec"), namespace)
    check = namespace["check"]
except BaseException as error:
    fail(3, f"the check does not run: {type(error).__name__}: {error}")
namespace[NAME] = candidate  # some checks call the function by its name
try:
    check(candidate)
except AssertionError as error:
    if is_raised(error):
        check_failed(error)
    fail(1 if calls else 3, f"an assertion of the tests failed {error}".strip())
except BaseException as error:
    check_failed(error)
fail(0, "")
