"""Inside another sandbox: runs a benchmark's own check against a function that it only calls.

The check sees a proxy: arguments go out as plain JSON, plain values come back. So whatever the
candidate returns, compares as what it is, and nothing of it runs here. Ends with status 0 if the
check passed, 1 if an assertion failed, 2 if the candidate raised or answered nothing plain.
"""

import os
import sys

sys.path.insert(0, "/program" if os.path.isdir("/program") else os.path.dirname(__file__))
import plain

questions = os.fdopen(os.dup(1), "w", encoding="utf-8")
answers = os.fdopen(os.dup(0), "rb")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
LONGEST = 1 << 22


def fail(status, text):
    sys.stderr.write(text[:500])
    sys.stderr.flush()
    os._exit(status)


def candidate(*arguments):
    try:
        questions.write(plain.dump([NAME, list(arguments)]) + "\n")
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
        fail(2, f"a call failed: {error if type(error) is str else 'no value'}")
    return reply["value"]


NAME = sys.argv[1]
with open(os.path.join(sys.path[0], "check.py"), encoding="utf-8") as file:
    source = file.read()
namespace: dict = {"__name__": "check"}
exec(compile(source, "check.py", "exec"), namespace)
namespace[NAME] = candidate  # some checks call the function by its name
try:
    namespace["check"](candidate)
except AssertionError as error:
    fail(1, f"an assertion of the tests failed {error}".strip())
except BaseException as error:
    fail(1, f"the tests raised {type(error).__name__}: {error}")
fail(0, "")
