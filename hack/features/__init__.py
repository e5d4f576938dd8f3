"""Which requirement is proved by which test: the page docs/features.md, from the tables and the tests' marks."""
