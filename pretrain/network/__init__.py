"""The ConvNet and what it is made of: layers, pooling, activations, preprocessing, and output-volume arithmetic."""
