"""Data sets as batches: annotations, images, augmentation, order."""
