"""The networks: CLIP, GroundingDINO and SAM on one shared image encoder, and the bundles that hold their weights."""
