"""What is chosen on held-out images: thresholds, calibration, settings of the methods; and the scores for it."""
