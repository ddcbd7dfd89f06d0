"""What changes the training images: crops, policies of color and shape, blending."""
