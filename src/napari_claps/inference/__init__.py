"""From an image and targets to masks, slice by slice."""
