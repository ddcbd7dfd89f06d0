"""The words that the cards of several kinds of artifact use."""

from __future__ import annotations

from typing import Literal

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]
# What the numbers of a classifier mean; "sigmoids" are probabilities of a yes or no for each class by itself.
AnswerKind = Literal["logits", "probabilities", "log_probabilities", "sigmoids"]
# What a network is for; "any" is whatever has other outputs than a number for each class.
Task = Literal["classify", "any"]
