"""What a stage has bought from a served model, on disk, and the limit that it keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition

from factory.core.errors import DataError, EngineError
from factory.core.guarded import append_guarded, guarded_rows
from factory.core.machine import EndpointAccess


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt: int
    completion: int


class Spending:
    """Tokens and money of one stage, of earlier starts too.

    The limit holds for every moment: before a request is sent, the price of the longest answer that
    it may get is set aside, and it waits while others hold what is left.
    """

    def __init__(self, access: EndpointAccess, path: Path | None) -> None:
        """`path` is the file that outlives a kill; None keeps nothing."""
        self._access = access
        self._path = path
        self._under_way = 0
        self._aside = 0.0
        self._free = Condition()
        self.requests = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        rows, lost = guarded_rows(path) if path else ([], [])
        if lost:
            raise DataError(
                f"{path}:{lost[0]}: not what was written, so nobody knows what is spent; delete "
                "the file to count from nothing again, under a lower most_spend"
            )
        for row in rows:
            self._add(Usage(row["prompt"], row["completion"]))

    @property
    def money(self) -> float:
        return self.price(Usage(self.prompt_tokens, self.completion_tokens))

    def price(self, usage: Usage) -> float:
        rates = (self._access.price_in or 0.0, self._access.price_out or 0.0)
        return (usage.prompt * rates[0] + usage.completion * rates[1]) / 1e6

    @contextmanager
    def set_aside(self, most: Usage) -> Iterator[None]:
        """Keep the money for a request; EngineError where the limit does not leave it."""
        price, limit = self.price(most), self._access.most_spend
        with self._free:
            while limit is not None and self.money + self._aside + price > limit:
                if self._under_way == 0:
                    raise EngineError(
                        f"{self._access.url}: spend limit: {self.money:.4g} of {limit:g} is spent "
                        f"and one more answer may cost {price:.4g}; what is answered is kept: "
                        "raise most_spend in the machine file and start again"
                    )
                self._free.wait()
            self._under_way += 1
            self._aside += price
        try:
            yield
        finally:
            with self._free:
                self._under_way -= 1
                # Sums of fractions leave dust.
                self._aside = self._aside - price if self._under_way else 0.0
                self._free.notify_all()

    def pay(self, usage: Usage) -> None:
        """Count a request; on disk before its answer is, so that no answer is ever free."""
        with self._free:
            self._add(usage)
            if self._path is not None:
                row = {"prompt": usage.prompt, "completion": usage.completion}
                append_guarded(self._path, [row])

    def __str__(self) -> str:
        text = (
            f"{self.requests} requests, {self.prompt_tokens} prompt tokens, "
            f"{self.completion_tokens} completion tokens"
        )
        priced = self._access.price_in is not None or self._access.price_out is not None
        return f"{text}, {self.money:.4g} spent" if priced else text

    def _add(self, usage: Usage) -> None:
        self.requests += 1
        self.prompt_tokens += usage.prompt
        self.completion_tokens += usage.completion
