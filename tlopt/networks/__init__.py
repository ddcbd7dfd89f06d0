"""Networks as torch modules: weights, classifier, padding, folding, and the way to a graph and back."""
