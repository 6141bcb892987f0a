"""Caption search in numpy over the steps of an engine."""
