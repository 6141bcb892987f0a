"""Videos and pictures: find, sample, read, normalise."""
