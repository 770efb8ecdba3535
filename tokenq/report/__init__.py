"""Traces made visible: in the terminal, on a page that opens from disk, and as figures."""
