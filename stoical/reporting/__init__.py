"""Tables and figures, made from the files that runs wrote."""
