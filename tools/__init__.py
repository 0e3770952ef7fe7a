"""Scripts for people who work on stoical."""
