"""Recipes: typed settings, their checks, and how they are loaded."""
