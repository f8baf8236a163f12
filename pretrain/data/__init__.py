"""Images: their sources, their splits and labels, and the augmentation of batches."""
