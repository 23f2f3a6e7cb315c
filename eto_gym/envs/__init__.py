"""The benchmarks: one self-contained package each."""
