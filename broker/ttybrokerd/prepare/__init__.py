"""The process that ends before anybody is served: it turns text and names into numbers."""
