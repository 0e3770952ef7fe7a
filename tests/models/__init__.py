"""The forward over a trie."""
