"""The parts of every run: its folder, settings, seeds and device, and how it resumes."""
