"""The loss and the mitigations."""
