"""tlopt: from a folder of images and a pretrained CNN to a verified, benchmarked engine."""

__version__ = "0.1.0"
