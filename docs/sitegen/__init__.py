"""What the documentation is made of beside its files: pages that are generated from the code."""
