"""How we learn, and how we know that it is good."""
