"""A row to token ids and packed batches: prompts, tokenization, queries, packing, generated rows."""
