"""One forward pass over prompt and trie nodes: attention, prompt cache, mixtures, adapters, which models can."""
