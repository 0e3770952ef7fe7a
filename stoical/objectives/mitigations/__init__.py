"""Mitigations of the mismatch between training and inference, one file a method."""
