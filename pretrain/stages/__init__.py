"""Kinds of stage, one file for each; stacks of them; and how they become a ConvNet."""
