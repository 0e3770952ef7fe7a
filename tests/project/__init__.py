"""Examples, documents, launcher files, benchmarks."""
