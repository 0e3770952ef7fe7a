"""The trainer and all around it: optimizer, launcher, memory, progress."""
