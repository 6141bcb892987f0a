"""What training runs keep on disk: their folders and image features, plots, model cards and metrics."""
