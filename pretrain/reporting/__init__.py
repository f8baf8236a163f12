"""Reports of comparisons: pages, tables and figures, each a pure function of the folders of the comparisons."""
