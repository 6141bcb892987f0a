"""Evaluation of captions and embeddings with the metrics of papers."""
