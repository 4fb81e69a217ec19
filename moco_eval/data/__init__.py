"""A data specification becomes images and labels, or scenes and boxes."""
