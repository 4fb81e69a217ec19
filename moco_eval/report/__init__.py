"""Records become one page: tables, curves, pictures and manifests, with nothing to load."""
