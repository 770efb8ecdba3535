"""The material of an examination, before the checks judge it: rows, weights, scores and samples of the models."""
