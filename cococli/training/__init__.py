"""Fine-tuning: losses, gradients, the optimizer and resumable runs."""
