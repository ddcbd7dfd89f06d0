"""ONNX graphs: what is looked up in them, their one clean form, and half precision by casts."""
