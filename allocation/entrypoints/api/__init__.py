"""The HTTP API: it accepts commands and answers reads; the worker decides."""
