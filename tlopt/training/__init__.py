"""Training: from a pretrained network to a classifier of other images."""
