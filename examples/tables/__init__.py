"""Tables 1 and 3 of the paper in miniature, and ranking losses beside them: `python -m examples.tables`."""
