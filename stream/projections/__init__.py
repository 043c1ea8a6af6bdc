"""Folds: read models built only by applying events."""
