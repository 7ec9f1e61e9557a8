"""SaLIP: masks of everything, of which CLIP chooses."""
