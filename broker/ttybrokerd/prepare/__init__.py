"""A process that ends before any client is served: it turns text and names into numbers."""
