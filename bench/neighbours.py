"""Honest programs beside each attack of the suite: their verdicts, and how long they take.

    python bench/neighbours.py [--rounds 3] [--only TEXT]

Two runs of an attack at a time, over and over, with one second allowed, and one honest program
after the other beside them: one computes for half a second with one allowed, one fills 300 MiB.
Printed are the verdicts and the median of the first one's seconds, in times of what it takes alone.
"""

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "pipeline")]

from test_one_run import FILLING, HOGS  # noqa: E402
from test_sandbox import ATTACKS  # noqa: E402

from factory.core.records import Problem  # noqa: E402
from factory.grading.code import grade_code  # noqa: E402
from factory.grading.groups import hard, home  # noqa: E402
from factory.grading.isolation import python_command  # noqa: E402
from factory.grading.sandbox import Sandbox  # noqa: E402
from factory.grading.watching import Limits  # noqa: E402

HONEST = {
    "computes": "import time\nt = time.process_time()\n"
    "while time.process_time() - t < 0.5: pass\nprint(25)",
    "fills memory": "b = bytearray(300 << 20)\nb[::4096] = b'x' * (300 << 8)\nprint(25)",
}
FURTHER = {
    "a busy loop": "while True: pass",
    "a chain of forks": "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    "for _ in range(20):\n    if os.fork() == 0: break\n"
    "while True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass",
    "output without end": "import sys\nwhile True: sys.stdout.write('x' * 65536)",
    "memory of many processes": "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n"
    "        b = bytearray(os.urandom(1 << 20)) * 120\n        time.sleep(60)\ntime.sleep(60)",
    "files of the disk": "n = 0\nwhile True:\n    n += 1\n    try: open(f'f{n % 99}', 'wb')"
    ".write(bytes(1 << 20))\n    except OSError: pass",
    "signals ignored": "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, 1)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "40 processes": HOGS[0],
    "60 sessions": HOGS[1],
    "30 threads": HOGS[2],
    **{f"{name} without end": f"import os, time\nkept = []\n{FILLING[name]}" for name in FILLING},
}  # fmt: skip
LIMITS = Limits(seconds=1.0)


def verdict(source: str) -> tuple[str, float]:
    """(outcome, seconds) of an honest program."""
    test = {"stdin": "", "expected_stdout": "25\n"}
    data = {"tests": [test], "timeout_seconds": 1.0}
    problem = Problem(id="p", prompt="", reference="", kind="code", source="", data=data)
    began = time.monotonic()
    outcome = grade_code(problem, source).outcome
    return outcome, time.monotonic() - began


def beside(attack: str, rounds: int) -> tuple[list[str], float]:
    """(outcomes of the honest programs, median seconds of the one that computes)."""
    ends = threading.Event()

    def neighbour() -> None:
        while not ends.is_set():
            files = {"main.py": attack.encode()}
            Sandbox().run(python_command("main.py"), files=files, limits=LIMITS)

    threads = [threading.Thread(target=neighbour) for _ in range(2 if attack else 0)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    results = [verdict(HONEST["computes"]) for _ in range(rounds)]
    others = [verdict(HONEST["fills memory"])[0]]
    ends.set()
    for thread in threads:
        thread.join()
    return [outcome for outcome, _ in results] + others, statistics.median(s for _, s in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print("bounded by the kernel:", ", ".join(hard(home())) or "nothing")
    _, alone = beside("", options.rounds)
    print(f"alone: {alone:.2f} s")
    kept = True
    for name, source in {**FURTHER, **ATTACKS}.items():
        if options.only in name:
            text = source.replace("PORT", "9").replace("PROJECT", str(ROOT))
            outcomes, seconds = beside(text, options.rounds)
            kept &= set(outcomes) == {"correct"}
            said = "all correct" if set(outcomes) == {"correct"} else ", ".join(outcomes)
            print(f"| {name} | {said} | {seconds / alone:.1f} |", flush=True)
    print("every verdict is kept" if kept else "NOT every verdict is kept")


if __name__ == "__main__":
    main()
