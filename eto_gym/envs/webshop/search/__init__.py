"""Search: tokenizer, stemmer, analysis, postings, and scoring, equal to the original's."""
