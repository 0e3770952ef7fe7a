"""Tables, figures and TREC files of evaluations, runs and datasets."""
