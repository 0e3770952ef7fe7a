"""Ranking data on disk: rows, files, checks, negatives."""
