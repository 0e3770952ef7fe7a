"""What a run leaves on disk: directory, checkpoints, resume, provenance, model card."""
