"""Ranking data in other layouts: BEIR, TREC, scored pairs, plain text."""
