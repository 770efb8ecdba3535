"""The demonstration, an application of the jobs: a tiny model in a world of posts, or a model and data of one's own."""
