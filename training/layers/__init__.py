"""Surfaces of retinal layers in B-scans: network, decoding, annotated and synthetic scans, training, measurement."""
