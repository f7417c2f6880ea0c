"""Benchmarks: each prints ratios measured within one run against a named rival. `make bench` runs them all."""
