"""osclms: the command line."""
