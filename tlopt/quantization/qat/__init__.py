"""Quantization-aware training: the network computes as its integers will, and learns to answer well so.

Weights are rounded to 8 bits, one scale for each output channel, batch norms folded in as they will be in the
exported graph. Activations are rounded wherever the runtime will, to a scale that is learned with the
gradient of LSQ (arXiv 1902.08153), as its logarithm (TQT, arXiv 1903.08066).
"""
