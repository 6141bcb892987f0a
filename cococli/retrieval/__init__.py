"""Vectors on disk: kept, searched and compared."""
