"""The memory of a search, shared by its workers: what was asked, what is done, and who is at what."""
