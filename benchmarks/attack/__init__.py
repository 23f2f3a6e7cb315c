"""Attacks on what users leave to the suite, and the account of them."""
