"""What the model would write."""
