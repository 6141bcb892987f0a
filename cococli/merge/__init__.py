"""Merging of shards: their outputs become the output of one run, if nothing is missing or duplicated."""
