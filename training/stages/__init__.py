"""The stages that make weights, and what turns weights into a bundle and back."""
