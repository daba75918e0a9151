"""The figures of `make bench`: each row beside its limit, measured in turns on the same servers."""
