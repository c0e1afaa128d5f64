"""Ranks of models on the same problems: only differences that hold after correction count."""

from collections.abc import Sequence

import numpy as np

from factory.evaluation.paired import ALPHA
from factory.evaluation.statistics import cluster_sums, clusters, t_quantile
from factory.indexing.rows import MODES, Entry, replaced


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with ranks where models answered the same problems of the same version."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for at, entry in enumerate(entries):
        row = entry.row
        if entry.shares and row.metric in MODES:
            key = (row.benchmark, row.version, row.metric, frozenset(entry.shares))
            groups.setdefault(key, []).append(at)
    ranks: dict[int, tuple[int | None, int]] = {}
    for members in groups.values():
        for at, rank in zip(members, _ranks([entries[at] for at in members]), strict=True):
            ranks[at] = (rank, len(members))
    return replaced(entries, ranks)


def _ranks(entries: Sequence[Entry]) -> list[int | None]:
    """1 + how many are better for certain; None for all where no pair differs for certain."""
    better = certain(entries)
    if not better.any():
        return [None] * len(entries)
    return [1 + int(number) for number in better.sum(axis=0)]


def certain(entries: Sequence[Entry]) -> np.ndarray:
    """[i, j]: whether i is better than j: Student's t on the paired differences with the error of
    `statistics.paired_error`, corrected for all pairs (Holm). All pairs at once:

        sum_g (d_g)^2 = |c_i|^2 + |c_j|^2 - 2 c_i c_j,    c = a model's centred cluster sums
    """
    from scipy.special import stdtr

    number = len(entries)
    names = sorted(entries[0].shares)
    if number < 2 or len(names) < 2:
        return np.zeros((number, number), dtype=bool)
    values = np.array([[entry.shares[name] for name in names] for entry in entries])
    means = values.mean(axis=1)
    groups = clusters(names)
    centred = np.array([cluster_sums(row, groups) for row in values - means[:, None]])
    units = centred.shape[1]
    if units < 2:
        return np.zeros((number, number), dtype=bool)
    gram = centred @ centred.T
    lengths = np.diag(gram)
    squares = np.maximum(lengths[:, None] + lengths[None, :] - 2 * gram, 0.0)
    samples = np.array([entry.samples for entry in entries], dtype=float)
    fewest = np.minimum(samples[:, None], samples[None, :])
    error = np.sqrt((squares + 1 / fewest) * units / (units - 1)) / len(names)
    differences = means[:, None] - means[None, :]
    scores = np.abs(differences) / error
    # What is above ALPHA by itself holds after no correction: such pairs need no p-value. The
    # quantile is right within 1 %.
    candidates = np.triu((differences != 0) & (scores > 0.98 * t_quantile(units - 1)), 1)
    p_values = 2 * stdtr(units - 1, -scores[candidates])
    holds = np.zeros((number, number), dtype=bool)
    holds[candidates] = _holm(p_values, number * (number - 1) // 2) < ALPHA
    return (holds | holds.T) & (differences > 0)


def _holm(p_values: np.ndarray, tests: int) -> np.ndarray:
    """`paired.holm` of the smallest p-values of so many tests; the others are 1."""
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * (tests - np.arange(p_values.size))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected
