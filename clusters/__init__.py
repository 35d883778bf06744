"""Cluster files that come with the package: where a sweep runs."""
