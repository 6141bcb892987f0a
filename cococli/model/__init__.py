"""The network in MindSpore and in torch."""
