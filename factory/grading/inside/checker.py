"""Inside a sandbox: asks a benchmark's checker whether an output is right.

Standard input is JSON with stdin, stdout and expected. Ends with status 0 if `check` returns a true
value or nothing, 1 if it returns a false one or an assertion fails, 3 if it fails itself.
"""

import json
import os
import sys

sys.path.insert(0, "/program" if os.path.isdir("/program") else os.path.dirname(__file__))


def fail(status, text):
    sys.stderr.write(text[:500])
    sys.stderr.flush()
    os._exit(status)


material = json.load(sys.stdin)
with open(os.path.join(sys.path[0], "check.py"), encoding="utf-8") as file:
    source = file.read()
namespace: dict = {"__name__": "check"}
try:
    exec(compile(source, "check.py", "exec"), namespace)
    check = namespace["check"]
    verdict = check(material["stdin"], material["stdout"], material["expected"])
except AssertionError as error:
    fail(1, f"{error}" or "an assertion failed")
except BaseException as error:
    fail(3, f"{type(error).__name__}: {error}")
fail(0 if verdict is None or verdict else 1, "" if verdict is None or verdict else "it says no")
