"""Comparisons of arms: the plan, the tasks and workers that carry it out, and the statistics of its results."""
