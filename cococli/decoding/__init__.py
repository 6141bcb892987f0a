"""Search for the best caption: numpy over an engine's steps."""
