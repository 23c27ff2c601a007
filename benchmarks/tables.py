"""Results into tables: means over draws with 95 % intervals, paired differences, confusion matrices.

Intervals are Student's t over draws. Differences are paired: both arms of a draw saw the same annotated planes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cells import of_one_recipe
from fewslice.metrics.intervals import Interval, student

__all__ = ["Series", "difference", "interval_text", "markdown", "share_text"]

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """Results of one benchmark and one recipe version.

    Raises
    ------
    MixedRecipesError
        If the results have several recipe versions.
    """

    results: Sequence[Result]

    def __post_init__(self) -> None:
        """Refuse several recipe versions."""
        of_one_recipe(self.results)

    def where(self, **wanted: Any) -> Series:
        """Keep results whose setting, arm, draw or configuration has the wanted values."""
        return Series([result for result in self.results if all(_has(result, k, v) for k, v in wanted.items())])

    def values(self, metric: str) -> dict[int, float]:
        """Give a score by draw, draws in which it is undefined left out.

        Raises
        ------
        ValueError
            If a draw has several results: the filter was too wide.
        """
        found: dict[int, float] = {}
        for result in self.results:
            draw, value = int(result["cell"]["draw"]), result["scores"].get(metric)
            if draw in found:
                raise ValueError(f"draw {draw} has several results for {metric}; name arm, planes, alpha and tier")
            if value is not None:
                found[draw] = float(value)
        return found

    def interval(self, metric: str) -> Interval | None:
        """Give mean and 95 % interval of a score over draws; None without results."""
        values = list(self.values(metric).values())
        return student(values) if values else None

    def distinct(self, key: str) -> list[Any]:
        """List the values that a configuration key takes, sorted, None left out."""
        return sorted({value for result in self.results if (value := _get(result, key)) is not None})

    def mean_confusion(self) -> list[list[float]] | None:
        """Give the mean of [[TN, FP], [FN, TP]] over draws, as shares of all scored voxels."""
        matrices = [result["scores"]["confusion"] for result in self.results]
        if not matrices:
            return None
        total = sum(sum(row) for row in matrices[0])
        return [[sum(m[i][j] for m in matrices) / len(matrices) / total for j in (0, 1)] for i in (0, 1)]


def _get(result: Result, key: str) -> Any:
    cell = result["cell"]
    return (
        cell[key] if key in ("setting", "arm", "draw", "recipe", "data") else cell["config"].get(key, result.get(key))
    )


def _has(result: Result, key: str, wanted: Any) -> bool:
    return bool(_get(result, key) == wanted)


def difference(ours: Series, theirs: Series, metric: str) -> Interval | None:
    """Give the interval of ours - theirs over the draws that both have; None when they share none."""
    mine, other = ours.values(metric), theirs.values(metric)
    draws = sorted(set(mine) & set(other))
    return student([mine[draw] - other[draw] for draw in draws]) if draws else None


def interval_text(interval: Interval | None, digits: int = 3, *, sign: bool = False) -> str:
    """Write ``0.812 ± 0.013 (5)`` with the number of draws; ``–`` where there is nothing."""
    if interval is None:
        return "–"
    mean = f"{interval.mean:{'+' if sign else ''}.{digits}f}"
    if interval.high is None:
        return f"{mean} ({interval.count})"
    return f"{mean} ± {interval.high - interval.mean:.{digits}f} ({interval.count})"


def share_text(matrix: Sequence[Sequence[float]] | None) -> str:
    """Write a confusion matrix as ``TN 95.1, FP 0.4, FN 0.8, TP 3.7`` in percent of voxels."""
    if matrix is None:
        return "–"
    (tn, fp), (fn, tp) = matrix
    return f"TN {100 * tn:.2f}, FP {100 * fp:.2f}, FN {100 * fn:.2f}, TP {100 * tp:.2f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown; what is in the first column is aligned left, the rest right."""
    lines = [f"| {' | '.join(head)} |", "|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"
