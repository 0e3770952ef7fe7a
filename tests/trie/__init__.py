"""The prefix tree and the loss's weights on it."""
