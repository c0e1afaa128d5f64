"""Grading in worker processes that can be killed.

Timeouts by signal do not exist off the main thread and cannot stop a long C call, so third-party
graders run in processes of their own under a wall clock. Our own code (well-formedness, exact
text, options, plain numbers) decides in this process: it is linear in the text.
"""

import hashlib
import json
import select
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

from factory.core.plugin_files import loaded_plugins
from factory.core.records import Verdict
from factory.grading.bounded import too_slow, was_ended
from factory.grading.grade import GradeItem, grade_plainly
from factory.grading.process import LineProcess
from factory.grading.sandbox import proven_bwrap

ATTEMPTS = 2
MAX_CACHED = 10_000
"""Verdicts kept by a pool; the oldest goes first."""


class GradingPool:
    """Grades items in order; an item that no worker survives twice is `ungradable`.

    Workers start with the first item that needs one. Not for use from several threads.
    """

    def __init__(
        self, processes: int = 1, *, deadline_seconds: float = 10.0, is_isolated: bool = True
    ) -> None:
        if processes < 1 or deadline_seconds <= 0:
            raise ValueError("a pool needs at least one process and a positive deadline")
        self.deadline_seconds = deadline_seconds
        self._is_isolated = is_isolated
        self._processes = processes
        self._workers: list[_Worker] = []
        self._cache: dict[str, Verdict] = {}

    def __enter__(self) -> "GradingPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the pool may be used again and starts new ones then."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """One verdict an item, in the order given."""
        if not self._is_isolated:
            items = [replace(item, is_isolated=False) for item in items]
        elif any(item.problem.kind == "code" for item in items):
            proven_bwrap()  # says here, in the caller's process, what is missing
        is_lean = all(item.problem.kind == "code" for item in items)
        verdicts: dict[int, Verdict] = {}
        waiting: deque[tuple[int, int]] = deque()
        for index, item in enumerate(items):
            verdict = grade_plainly(item) or self._cache.get(_key(item))
            if verdict is None:
                waiting.append((index, 1))
            else:
                verdicts[index] = verdict
        busy: dict[int, tuple[_Worker, int, int]] = {}
        while waiting or busy:
            self._start(min(self._processes, len(waiting) + len(busy)), is_lean=is_lean)
            idle = [worker for worker in self._workers if worker.reader not in busy]
            for worker, (index, attempt) in zip(idle, list(waiting), strict=False):
                waiting.popleft()
                worker.send_item(items[index])
                busy[worker.reader] = (worker, index, attempt)
            for reader in self._ready(busy):
                worker, index, attempt = busy.pop(reader)
                verdict, failure = worker.verdict()
                if failure:
                    self._workers.remove(worker)
                    worker.kill()
                if verdict is not None:
                    verdicts[index] = verdict
                    self._keep(items[index], verdict)
                elif attempt < ATTEMPTS:
                    waiting.appendleft((index, attempt + 1))
                else:
                    verdicts[index] = Verdict(
                        outcome="ungradable", answer=None, explanation=failure
                    )
        return [verdicts[index] for index in range(len(items))]

    def _keep(self, item: GradeItem, verdict: Verdict) -> None:
        if len(self._cache) >= MAX_CACHED:
            self._cache.pop(next(iter(self._cache)))
        self._cache[_key(item)] = verdict

    def _start(self, count: int, *, is_lean: bool) -> None:
        if not is_lean and any(worker.is_lean for worker in self._workers):
            self.close()
        missing = count - len(self._workers)
        fresh = [_Worker(self.deadline_seconds, is_lean=is_lean) for _ in range(missing)]
        for worker in fresh:
            worker.wait_until_ready()
        self._workers += fresh

    def _ready(self, busy: dict[int, Any]) -> list[int]:
        """Readers with an answer, a death or a passed deadline; waits for the first of them."""
        now = time.monotonic()
        wait = min(worker.expires for worker, _, _ in busy.values()) - now
        ready, _, _ = select.select(list(busy), [], [], max(0.0, wait))
        now = time.monotonic()
        late = [reader for reader, (worker, _, _) in busy.items() if worker.expires <= now]
        return list(dict.fromkeys([*ready, *late]))


def _key(item: GradeItem) -> str:
    """Hash of all that a verdict depends on; a pool lives no longer than its graders' version."""
    return hashlib.sha256(_encoded(item)).hexdigest()


def _encoded(item: GradeItem) -> bytes:
    row = asdict(item) | {"problem": item.problem.model_dump(mode="json")}
    row["form"] = item.form and item.form.model_dump()
    return json.dumps(row, sort_keys=True).encode()


class _Worker(LineProcess):
    """A process that answers items with verdicts.

    A lean one has imported nothing for mathematics and grades programs alone: starting a program
    copies the tables of the worker's memory, which is a fifth of a short program's time.
    """

    def __init__(self, deadline_seconds: float, *, is_lean: bool = False) -> None:
        self._deadline = deadline_seconds
        self.is_lean = is_lean
        files = [file.model_dump() for file in loaded_plugins()]
        arguments = [str(deadline_seconds), json.dumps(files), *(["lean"] if is_lean else [])]
        super().__init__("factory.grading.child", arguments, purpose="grading")

    def send_item(self, item: GradeItem) -> None:
        self.send(_encoded(item), seconds=self._deadline + item.seconds)

    def verdict(self) -> tuple[Verdict | None, str]:
        """(verdict, ""), or what happened to the worker, with a verdict where it shows one."""
        line, failure = self.receive()
        if line is None:
            return too_slow() if was_ended(self.status) else None, failure
        seconds = time.monotonic() - self.sent
        return Verdict.model_validate_json(line).model_copy(update={"seconds": seconds}), ""
