"""Write the noun graph and the licence that ship with stoical, from NLTK's corpus: `python -m tools.wordnet_graph`."""

from __future__ import annotations

import gzip

from data_prep.wordnet.graph import GRAPH_FILE, HERE, LICENCE_FILE, nltk_graph_text, parse_graph


def main() -> None:
    """Write both files beside `data_prep/wordnet/graph.py`."""
    text, licence = nltk_graph_text(download=False)
    graph = parse_graph(text, licence)
    (HERE / GRAPH_FILE).write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    (HERE / LICENCE_FILE).write_text(licence, encoding="utf-8")
    print(f"WordNet {graph.version}: {len(graph.parents):,} noun synsets in {HERE / GRAPH_FILE}")


if __name__ == "__main__":
    main()
