"""What is learnt from: images with annotations, who they are of, which are held out, views, captions and texts."""
