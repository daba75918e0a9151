"""An explicit-state model of the protocol: each order of its steps, and of crashes, is tried.

`state` is what databases, broker and processes hold, `steps` is what they do, `guarantees` are the
promises, and `search` tries every story up to a bound and tells the shortest that breaks a promise.
`variants` switches off one mechanism at a time. `python -m tests.model` prints what was found.
"""
