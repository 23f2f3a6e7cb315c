"""The catalog: records of the official files, products, goals, nouns, and building an index."""
