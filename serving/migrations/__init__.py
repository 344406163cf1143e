"""The one chain of migrations of the store's database. `Store` runs them."""
