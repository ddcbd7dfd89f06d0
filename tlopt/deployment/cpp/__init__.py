"""The target cpp: a C++ project that decodes, resizes and runs as tlopt does, and what is written beside it."""
