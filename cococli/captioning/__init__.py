"""From videos to records: pipeline and writers."""
