"""stoical: fine-tune language models to rank, with a rank-aware loss over the prefix tree of docIDs."""

__version__ = "0.1.0"
