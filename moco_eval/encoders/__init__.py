"""A checkpoint by any author becomes an encoder, every tensor accounted for."""
