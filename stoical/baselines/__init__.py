"""Dual and cross encoders over a lookup table (section 5.3), and the reconstruction of a taxonomy by embeddings."""
