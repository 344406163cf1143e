"""The choice of one program, or of silence, for a customer whom several could write to today: docs/choosing.md."""
