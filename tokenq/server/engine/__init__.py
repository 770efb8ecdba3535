"""What writes for the server: requests that come and go meet in running batches, on one thread that owns the models."""
