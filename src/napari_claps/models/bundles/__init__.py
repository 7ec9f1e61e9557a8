"""Bundles of weights: what they hold, where they are, how they are loaded, fetched and imported."""
