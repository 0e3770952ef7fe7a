"""Makers of datasets."""
