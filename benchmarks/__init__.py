"""What the project reaches, measured: `make bench`."""
