"""Sweep files that come with the package: what is swept, one for each method, and the quickstart."""
