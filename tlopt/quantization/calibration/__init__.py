"""What calibration images show: values of activations, moments of layer inputs, and the scales that follow."""
