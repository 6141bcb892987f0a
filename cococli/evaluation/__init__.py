"""How good captions and vectors are, as papers count it."""
