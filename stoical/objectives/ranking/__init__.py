"""Ranking losses on the exact scores of a query's docIDs, one file a loss; `losses.py` has the table of them."""
