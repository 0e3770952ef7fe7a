"""The mismatch paper's simulation: what it did (`compat`), and what can be said exactly (`exact`).

Both blocks train many replications at once: small models whose parameters have a leading axis of replications, on
batches of all replications' queries. Tries, targets, walks, losses and mitigations are the library's own.
"""
