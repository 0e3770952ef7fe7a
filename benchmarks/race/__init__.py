"""The race: stoical and what one would use in its place, on the same data, from the same weights, to the same quality.

`python -m benchmarks.race --help` explains it; benchmarks/README.md has the results.
"""
