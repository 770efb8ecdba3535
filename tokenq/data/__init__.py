"""Text in, token groups out: the only room that decides where a response begins and which tokens the policy wrote.

The flow is `sources` (a `--data` string to rows), `formats` (rows to examples), `tokenize` (examples to token groups
and a summary) and `packing` (groups to batches). Nothing here imports a network or needs one.
"""
