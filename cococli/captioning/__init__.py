"""From videos to records and output files."""
