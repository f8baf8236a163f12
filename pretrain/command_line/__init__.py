"""The command line: from Hydra's configuration to a function, and from a mistake to one line."""
