"""Rows to token ids and packed batches."""
