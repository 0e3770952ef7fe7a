"""Tests, in the rooms of what they test; `tests/support` holds what they share."""
