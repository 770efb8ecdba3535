"""`python -m bench`: the benchmark of training speed and memory."""

from bench.train_speed import main

main()
