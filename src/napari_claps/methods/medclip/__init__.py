"""MedCLIP-SAMv2: saliency of image and text (M2IB), regions, and prompts for SAM."""
