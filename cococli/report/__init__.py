"""A page of results to look at in a browser."""
