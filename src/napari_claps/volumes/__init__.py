"""What belongs to a volume as a whole: numbers through the slices, doubtful places, en-face maps."""
