"""The blocks of a network, and the search for those that have to stay float."""
