"""The networks: one image encoder, one text encoder, detector and mask head; and the official ones."""
