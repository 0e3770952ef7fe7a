"""docIDs out of embeddings: sparse codes, k-means, collisions, the item table."""
