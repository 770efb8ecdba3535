"""Training of image models, alone or behind a refiner of prompts."""
