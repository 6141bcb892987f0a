"""The MindSpore network: maths only."""
