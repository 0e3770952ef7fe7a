"""What the model would write: walks over one forward pass, beam search, sampling, docID scores."""
