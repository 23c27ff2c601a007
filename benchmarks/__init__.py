"""Reproductions of published comparisons and speed measurements, all on one cached-cell runner (:mod:`benchmarks.cells`)."""
