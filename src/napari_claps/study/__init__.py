"""The conductor: what is done with an image, for the command line, napari and Python alike."""
