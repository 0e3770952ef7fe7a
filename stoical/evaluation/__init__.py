"""Metrics, the evaluator, diagnostics, intervals."""
