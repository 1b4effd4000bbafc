"""Benchmarks: each prints what was measured beside a peer or the physical limit, in one run."""
