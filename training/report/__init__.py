"""What a bundle is worth on images it has not learnt from."""
