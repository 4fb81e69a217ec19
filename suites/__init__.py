"""Suites that come with the package: ``moco-eval run quick``."""
