"""An encoder becomes a file of another format, and the evidence that it is the same."""
