"""What the six scripts share: data sets, batches, the training loop, checkpoints, metrics and plots."""
