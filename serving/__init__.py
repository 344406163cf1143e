"""What we answer, and how: fitted arrays in a bundle, an engine over them, and the service."""
