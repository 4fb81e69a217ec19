"""Data, no code: the numbers that papers published, and the records this project measured."""
