"""Images: where they come from, which of them carry labels, and what is done to a batch of them."""
