"""The paper's second dataset: Amazon's Shopping Queries (ESCI)."""
