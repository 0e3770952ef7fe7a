"""DocIDs out of embeddings."""
