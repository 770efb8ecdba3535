"""The demonstration with pictures: a refiner of prompts and an image model learn from the same preferences."""
