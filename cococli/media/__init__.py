"""Videos and pictures: find, sample, read, normalize."""
