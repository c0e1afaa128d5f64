"""Programs as other people's models write them, and tests as benchmarks state them, by kind."""

import pytest

from factory.core.records import Problem
from factory.grading import grade
from factory.grading.outputs import same_output
from factory.grading.programs import program_of
from factory.text.chat import completion_text


def verdict(text, **data):
    problem = Problem(id="p", prompt="", reference="", kind="code", source="test", data=data)
    response = text if "<answer>" in text else completion_text("so", f"```python\n{text}\n```")
    return grade(problem, response)


def cases(*pairs, **data):
    rows = [{"stdin": given, "expected_stdout": wanted} for given, wanted in pairs]
    return {"tests": rows, **data}


def calls(name, *pairs, **data):
    rows = [{"args": list(args), "expected": expected} for *args, expected in pairs]
    return {"calls": rows, "entry_point": name, **data}


def check(name, *lines, **data):
    body = "".join(f"    {line}\n" for line in lines)
    return {"check": f"def check(candidate):\n{body}", "entry_point": name, **data}


GAP = "def check(candidate):\n    assert candidate(1) == missing_name\n"
SHUFFLED = "def check(stdin, stdout, expected):\n    return sorted(stdout.split()) == ['1', '2']\n"
RIGHT = {
    "names of site": [
        ("if True:\n    print(4)\n    exit(0)", cases(("", "4"))),
        ("print(4)\nquit()", cases(("", "4"))),
        ("def f(x):\n    if x < 0:\n        exit()\n    return x", calls("f", (3, 3))),
        ("def f(x):\n    return callable(exit)", check("f", "assert candidate(1)")),
    ],
    "numbers": [
        ("print(0.1 + 0.2)", cases(("", "0.3"), tolerance=1e-9)),
        ("print(2.0)", cases(("", "2"))),
        ("print(1e-7)", cases(("", "0.0000001"))),
        ("print(3.14159)", cases(("", "3.1415926"), tolerance=1e-5)),
        ("print('12.5')", cases(("", "12.50"))),
    ],
    "blanks": [
        ("print('1   2')", cases(("", "1 2"))),
        ("print(' 1 2')", cases(("", "1 2"))),
        ("print('1\\t2\\n')", cases(("", "1 2"))),
    ],
    "size": [
        ("print(len(str(7 ** 6000)))", cases(("", "5071"))),
        ("print('a' * 1500000)", cases(("", "a" * 1500000))),
        ("def f(n):\n    return 'a' * n", calls("f", (1300000, "a" * 1300000))),
        ("n = int(input())\nprint(n + 1)", cases(("9" * 5000, "1" + "0" * 5000))),
    ],
    "stack": [
        (
            "import sys\nsys.setrecursionlimit(10**6)\n"
            "def f(n):\n    return 1 + max(map(f, [n - 1])) if n else 0\nprint(f(12000))",
            cases(("", "12000")),
        ),
        (
            "import threading, sys\nthreading.stack_size(2**26)\nsys.setrecursionlimit(10**6)\n"
            "def f(n):\n    return 1 + f(n - 1) if n else 0\n"
            "t = threading.Thread(target=lambda: print(f(20000)))\nt.start()\nt.join()",
            cases(("", "20000")),
        ),
        (
            "import threading\nts = [threading.Thread(target=int) for _ in range(20)]\n"
            "[t.start() for t in ts]\n[t.join() for t in ts]\nprint(1)",
            cases(("", "1")),
        ),
    ],
    "processes": [
        (
            "from multiprocessing import Pool\nif __name__ == '__main__':\n"
            "    with Pool(2) as pool:\n        print(sum(pool.map(abs, [-1, 2])))",
            cases(("", "3")),
        ),
        (
            "from multiprocessing import Lock, Value\nv = Value('i', 4)\nwith Lock():\n"
            "    print(v.value)",
            cases(("", "4")),
        ),
        (
            "from concurrent.futures import ProcessPoolExecutor as P\n"
            "if __name__ == '__main__':\n    print(list(P(1).map(abs, [-5])))",
            cases(("", "[5]")),
        ),
    ],
    "classes": [
        (
            "class Solution:\n    def f(self, xs: List[int]) -> int:\n        return max(xs)",
            calls("f", ([1, 5], 5), ([2], 2)),
        ),
        (
            "class Solution:\n    seen = 0\n    def f(self, x):\n        self.seen += 1\n"
            "        return self.seen",
            calls("f", (1, 1), (1, 1)),
        ),
        (
            "class Solution:\n    def f(self, s):\n        return Counter(s)['a'] + inf * 0 != 9",
            calls("f", ("aa", True)),
        ),
        (
            "class Solution:\n    def g(self, x):\n        return x",
            check("g", "assert candidate(4) == 4"),
        ),
    ],
    "main guards": [
        (
            "def f(x):\n    return x\nif __name__ == '__main__':\n    raise SystemExit",
            calls("f", (1, 1)),
        ),
        (
            "def f(x):\n    return x\nif __name__ == '__main__':\n    while True: pass",
            calls("f", (1, 1)),
        ),
        (
            "def f(x):\n    return x\nif __name__ == '__main__':\n    input()",
            check("f", "assert candidate(1) == 1"),
        ),
        ("if __name__ == '__main__':\n    print(5)", cases(("", "5"))),
    ],
    "plain values": [
        (
            "import collections\ndef f(s):\n    return collections.defaultdict(int, {s: 1})",
            check("f", "assert candidate('a') == {'a': 1}"),
        ),
        (
            "from collections import namedtuple as n\nP = n('P', 'a b')\ndef f():\n    return P(1, 2)",  # noqa: E501
            calls("f", ([1, 2],)),
        ),
        (
            "from enum import IntEnum\nclass C(IntEnum):\n    A = 3\ndef f():\n    return C.A",
            calls("f", (3,)),
        ),
        (
            "from fractions import Fraction\ndef f():\n    return Fraction(1, 2)",
            check("f", "assert candidate() == 0.5"),
        ),
        (
            "from collections import OrderedDict\ndef f():\n    return OrderedDict(a=1)",
            calls("f", ({"a": 1},)),
        ),
        ("def f():\n    return {'k': (1, (2, 3))}", calls("f", ({"k": [1, [2, 3]]},))),
    ],
    "time of calls": [
        (
            "import time\ndef f(n):\n    end = time.process_time() + 0.2\n"
            "    while time.process_time() < end: pass\n    return n",
            calls("f", *[(n, n) for n in range(8)], timeout_seconds=0.8),
        ),
    ],
    "checks": [
        (
            "def f(a, *, b=1, **c):\n    return a + b + c['d']",
            check("f", "assert candidate(1, b=2, d=3) == 6"),
        ),
        (
            "def f(x):\n    raise KeyError('k')",
            check(
                "f",
                "try:",
                "    candidate(1)",
                "except KeyError:",
                "    return",
                "raise AssertionError",
            ),
        ),
        (
            "class Own(ValueError):\n    pass\ndef f(x):\n    raise Own('no')",
            check(
                "f",
                "try:",
                "    candidate(1)",
                "except ValueError as e:",
                "    assert 'no' in str(e)",
            ),
        ),
        (
            "def f(xs):\n    xs.sort()",
            check("f", "xs = [2, 1]", "candidate(xs)", "assert xs == [1, 2]"),
        ),
        (
            "def f(d, k):\n    d[k] = 1",
            check("f", "d = {}", "candidate(d, k='a')", "assert d == {'a': 1}"),
        ),
        ("def f(xs):\n    return sum(xs)", check("f", "assert candidate(range(4)) == 6")),
        (
            "def f(xs):\n    return len(xs)",
            check("f", "from collections import deque", "assert candidate(deque([1])) == 1"),
        ),
    ],
    "futures": [
        (
            "from __future__ import annotations\ndef f(x: Foo):\n    return x",
            check("f", "assert candidate(1) == 1", prompt="import math\n"),
        ),
        (
            "\n# first\nfrom __future__ import annotations\nprint(1)",
            cases(("", "1"), prompt="import os\n"),
        ),
        (
            "from __future__ import division, annotations\ndef f():\n    return 1 / 2",
            calls("f", (0.5,), prompt="A = 1"),
        ),
    ],
    "several right outputs": [
        ("print(2, 1)", {"tests": [{"stdin": ""}], "checker": SHUFFLED}),
        ("print(1, 2)", {"tests": [{"stdin": "", "expected_stdout": "2 1"}], "checker": SHUFFLED}),
        (
            "print(9)",
            {
                "tests": [{"stdin": "3"}],
                "checker": "def check(i, o, e):\n    assert int(o) == int(i) ** 2",
            },
        ),
    ],
}
FAILED = {
    "numbers": [
        ("print(3.15)", cases(("", "3.14"), tolerance=1e-6), "wrong"),
        ("print(6)", cases(("", "5"), tolerance=2.0), "wrong"),
        ("print(3.1416)", cases(("", "3.1415926535")), "wrong"),
        ("print(12.51)", cases(("", "12.50")), "wrong"),
        ("print('05')", cases(("", "a5")), "wrong"),
    ],
    "blanks": [
        ("print('1\\n2')", cases(("", "1 2")), "wrong"),
        ("print('12')", cases(("", "1 2")), "wrong"),
        ("print('1  2')", cases(("", "1 2"), exact_layout=True), "wrong"),
    ],
    "size": [
        ("while True: print('a' * 1000)", cases(("", "a")), "crashed"),
        ("print('a' * 2000000)", cases(("", "a"), output_mib=1), "crashed"),
        ("print('a' * 100000)", cases(("", "a"), output_mib=1), "wrong"),
    ],
    "names of site": [
        ("print(4)\nexit(3)", cases(("", "4")), "crashed"),
        ("def f(x):\n    exit()", check("f", "assert candidate(1) == 1"), "crashed"),
    ],
    "time of calls": [
        (
            "def f(n):\n    while n: pass\n    return n",
            calls("f", (0, 0), (1, 1), timeout_seconds=0.5),
            "timeout",
        ),
    ],
    "plain values": [
        (
            "class S(int):\n    def __eq__(self, o):\n        return True\ndef f():\n    return S(3)",  # noqa: E501
            calls("f", (4,)),
            "wrong",
        ),
        (
            "class S(dict):\n    def __eq__(self, o):\n        return True\ndef f():\n    return S()",  # noqa: E501
            check("f", "assert candidate() == {'a': 1}"),
            "wrong",
        ),
        ("def f():\n    return object()", calls("f", (1,)), "crashed"),
        ("def f():\n    return [1]", calls("f", ({"$": "tuple", "v": [1]},)), "wrong"),
    ],
    "checks": [
        ("def f(x):\n    raise KeyError", check("f", "assert candidate(1) == 1"), "crashed"),
        (
            "def f(x):\n    raise AssertionError('x')",
            check("f", "assert candidate(1) == 1"),
            "crashed",
        ),
        ("def f(x):\n    return None", check("f", "assert candidate(1) + 1 == 2"), "wrong"),
        (
            "def f(xs):\n    return sorted(xs)",
            check("f", "xs = [2, 1]", "candidate(xs)", "assert xs == [1, 2]"),
            "wrong",
        ),
    ],
    "the test's fault": [
        (
            "def f(x):\n    return x",
            {"check": "import no_such_module\ndef check(c): pass", "entry_point": "f"},
            "ungradable",
        ),
        ("def f(x):\n    return x", {"check": "def check(c:", "entry_point": "f"}, "ungradable"),
        ("def f(x):\n    return x", {"check": GAP, "entry_point": "f"}, "ungradable"),
        ("def f(x):\n    return x", check("f", "candidate(object())"), "ungradable"),
        ("def f(x):\n    return x", check("f", "1 / 0"), "ungradable"),
        (
            "print(1)",
            {"tests": [{"stdin": ""}], "checker": "def check(i, o, e):\n    return e + 1"},
            "ungradable",
        ),
        ("print(1)", {"tests": [{"stdin": ""}]}, "ungradable"),
    ],
    "several right outputs": [
        ("print(3, 1)", {"tests": [{"stdin": ""}], "checker": SHUFFLED}, "wrong"),
        (
            "print(8)",
            {
                "tests": [{"stdin": "3"}],
                "checker": "def check(i, o, e):\n    assert int(o) == int(i) ** 2",
            },
            "wrong",
        ),
    ],
}


def rows(table):
    return [
        pytest.param(*row, id=f"{kind} {number}")
        for kind in table
        for number, row in enumerate(table[kind])
    ]


@pytest.mark.parametrize(("source", "data"), rows(RIGHT))
def test_a_right_program_is_right_however_it_is_written(source, data):
    graded = verdict(source, **data)
    assert graded.outcome == "correct", graded.explanation


@pytest.mark.parametrize(("source", "data", "outcome"), rows(FAILED))
def test_what_fails_fails_for_its_own_reason(source, data, outcome):
    graded = verdict(source, **data)
    assert graded.outcome == outcome, graded.explanation


def test_calls_may_expect_exceptions_and_arguments_changed_in_place():
    data = {
        "entry_point": "f",
        "calls": [
            {"args": [[3, 1]], "expected": [1, 3], "argument": 0},
            {"args": [None], "raises": "TypeError"},
        ],
    }
    source = "def f(xs):\n    xs[:] = sorted(xs)"
    assert verdict(source, **data).outcome == "correct"
    assert verdict("def f(xs):\n    return sorted(xs or [])", **data).outcome == "wrong"
    data["calls"] = data["calls"][1:]
    assert verdict("def f(xs):\n    return 1", **data).outcome == "wrong"


def test_numpy_is_there_where_it_is_installed_for_the_same_python():
    graded = verdict("import numpy\nprint(numpy.arange(3).sum())", **cases(("", "3")))
    assert graded.outcome == "correct" or "No module named 'numpy'" in graded.explanation
    graded = verdict("import numpy\ndef f():\n    return numpy.int64(3)", **calls("f", (3,)))
    assert graded.outcome == "correct" or "No module named 'numpy'" in graded.explanation


PROGRAM = "n = 1\nprint(n)\n"
ANSWERS = [
    f"```python\n{PROGRAM}```\nIt prints:\n```\n1\n```",
    f"```python\n{PROGRAM}```\nRun it:\n```bash\npython main.py\n```",
    f"```\n{PROGRAM}```\nOutput:\n```text\n1\n```",
    f"```Python\n{PROGRAM}```",
    f"```py\nx = (\n```\nBetter:\n```python3\n{PROGRAM}```",
    f"```python\n{PROGRAM}",
    f"{PROGRAM}```",
    "n = 1\nprint(n)```",
    "1. First:\n\n   ```python\n   n = 1\n   print(n)\n   ```",
    "- ```python\n  n = 1\n  print(n)\n  ```",
    f"~~~python\n{PROGRAM}~~~",
    f"````python\n{PROGRAM}````",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_program_of_an_answer_is_found_among_its_blocks(answer):
    read = program_of(answer).strip()
    assert [line.strip() for line in read.splitlines()] == PROGRAM.split("\n")[:2]
    compile(read, "main.py", "exec")


def test_a_block_of_another_language_is_no_program():
    assert program_of("```javascript\nlet x = 1;\n```") == ""
    assert program_of("```cpp\nint main() {}\n```", "cpp") == "int main() {}\n"
    assert program_of("```c++\nint main() {}\n```\n```\n5\n```", "cpp") == "int main() {}\n"


@pytest.mark.parametrize(
    "body", ["\n    return n + 1\n", "\n\n    m = n\n    return m + 1\n", "\n\treturn n + 1"]
)
def test_a_body_keeps_the_indent_of_its_first_line(body):
    data = check("inc", "assert candidate(3) == 4", prompt="def inc(n):\n")
    assert verdict(f"<think> so </think> <answer>{body}</answer>", **data).outcome == "correct"


def test_comparing_outputs_takes_linear_time():
    long = "1.000001 " * 100_000
    assert same_output(long, "1.0000010 " * 100_000)
    assert not same_output("1" * 500_000, "1" * 499_999 + "2")
