"""The trainer, adapters, launching."""
