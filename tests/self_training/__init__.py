"""BASH and RAC."""
