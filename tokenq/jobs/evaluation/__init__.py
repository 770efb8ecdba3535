"""What the tasks of `tokenq.evaluate` read and judge: traces, stored answers, stored preferences."""
