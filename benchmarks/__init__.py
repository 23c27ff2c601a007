"""Reproductions of published comparisons and speed measurements, all on one runner (:mod:`benchmarks.cells`)."""
