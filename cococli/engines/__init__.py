"""The engine interface and its implementations."""
