"""The engine boundary and its implementations."""
