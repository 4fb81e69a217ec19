"""Linear classifiers on frozen features: trained step by step, many at once, or solved for."""
