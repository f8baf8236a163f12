"""Reports of comparisons: pages, tables and figures that are a pure function of their folders."""
