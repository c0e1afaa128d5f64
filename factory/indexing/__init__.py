"""All models of a store, or of several reports, on all benchmarks: one table."""
