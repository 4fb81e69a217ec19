"""Bytes become tensors, whoever wrote them; nothing in a file ever runs."""
