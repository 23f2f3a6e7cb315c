"""Local language models: chat codec, key-value rows, decoding, loading, and the tiny model."""
