"""Many records: read, indexed, verified, merged."""
