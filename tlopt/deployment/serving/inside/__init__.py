"""Scripts and models that run in the server's environment: each is one file that needs nothing of tlopt."""
