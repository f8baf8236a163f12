"""Comparisons: what they consist of, who does the work, and what paired results tell."""
