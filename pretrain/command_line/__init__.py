"""The command line: commands from Hydra's configuration, their help, and errors in one line."""
