"""Checkpoints on disk: read open_clip's, convert, find."""
