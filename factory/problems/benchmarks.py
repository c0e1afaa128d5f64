"""The benchmarks that ship inside installable wheels, registered as a user's are."""

from collections.abc import Iterator
from functools import partial

from factory.core.records import Problem
from factory.problems.benchmark import BENCHMARKS, Benchmark
from factory.problems.bundled import BUNDLES, BundledSource, BundleName, supply


def bundled(name: BundleName) -> Iterator[Problem]:
    """Questions of a wheel, checked by their sha256."""
    return supply(BundledSource(type="bundled", name=name), seed=0).problems


for name, bundle in BUNDLES.items():
    BENCHMARKS.register(name, Benchmark(partial(bundled, name), bundle.licence), version=1)
