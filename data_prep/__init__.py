"""Data sets for ranking, made from WordNet, ESCI and files of your own: what `stoical prepare` runs."""
