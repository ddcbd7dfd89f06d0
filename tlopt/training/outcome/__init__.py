"""What a training run says at its end: metrics, calibrated confidence, pictures, records."""
