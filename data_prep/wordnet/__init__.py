"""The paper's first dataset: hypernyms of WordNet's nouns; and a small plain-text task."""
