"""Counting nuclei: what is judged, and that a wrong count is seen."""

from __future__ import annotations

import numpy as np

from benchmarks import instances, targets
from benchmarks.tables import Series


def test_what_is_judged_was_not_annotated() -> None:
    for half in instances.HALVES.values():
        first, last = half.judged
        assert not any(first <= int(z) < last for z in half.planes.split(","))
    assert instances.HALVES["low"].judged[0] - 40 > 10, "planes beside annotated ones would count"


def test_small_objects_count_on_neither_side_and_parts_are_pooled() -> None:
    truth = np.zeros((10, 30, 30), np.uint32)
    truth[:, :12, :12], truth[:, 18:, 18:], truth[0, 0, 29] = 1, 2, 3
    found = truth.copy()
    found[0, 0, 29] = 0
    perfect = instances.pooled([(truth, found)])
    assert perfect["f1"] == 1 and perfect["truth_count"] == 2 and perfect["count_error"] == 0
    fused = np.where(truth > 0, 1, 0).astype(np.uint32)
    half = instances.pooled([(truth, found), (truth, fused)])
    assert half["merges"] == 1 and half["predicted_count"] == 3 and 0.5 < half["f1"] < 1
    assert half["count_error"] == -0.25


def test_a_cell_is_made_again_as_it_was() -> None:
    cell = instances.make_cell("boundary", 1)
    assert instances.again({"cell": cell.identity}).key == cell.key
    assert cell.key != instances.make_cell("foreground", 1).key != instances.make_cell("foreground", 2).key


def _lines(f1: float, error: float, draws: int = 3) -> list[bool | None]:
    cells = [instances.make_cell("boundary", draw) for draw in range(draws)]
    results = [{"cell": cell.identity, "scores": {"f1": f1, "count_error": error}} for cell in cells]
    return [line.reached for line in targets._instances(Series(results))]


def test_targets_need_three_draws_and_every_count() -> None:
    assert _lines(0.8, -0.1) == [True, True]
    assert _lines(0.7, 0.2) == [False, False]
    assert _lines(0.8, 0.1, draws=2) == [None, None]


def test_memory_that_grows_is_seen() -> None:
    from benchmarks import scaling

    def line(larger: float) -> bool | None:
        results = []
        for gib, peak in ((0.25, 1.0), (2.0, 1.0), (16.0, larger)):
            cell = scaling._cell(gib, 0, arm="verbs")
            scores = {f"{verb}_peak_gib": peak for verb in ("predict", "segment", "measure", "mesh")}
            results.append({"cell": cell.identity, "scores": scores})
        return targets._scaling(Series(results))[-1].reached

    assert line(1.05) is True and line(1.2) is False
