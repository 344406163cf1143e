"""What happened, and what we know: the data contract, the history at rest, and views of it up to a moment."""
