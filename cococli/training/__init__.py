"""Training: losses, gradients, the optimizer, and the runs made of them."""
