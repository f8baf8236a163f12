"""What every run has: a folder, settings, seeds, a device, and a way to go on after an interruption."""
