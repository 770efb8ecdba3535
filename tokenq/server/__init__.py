"""A server over HTTP for a policy with its reference: one thread owns the models, requests meet in batches."""
