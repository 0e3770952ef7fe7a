"""Training on what the model itself writes, made offline between iterations of training (the BASH and RAC paper)."""
