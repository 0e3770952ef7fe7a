"""Rows on disk."""
