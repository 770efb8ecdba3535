"""Image models: noise schedules, samplers with exact densities, errors as log-ratios, diffusers pipelines."""
