"""What a user wants done, a function each: it takes values, returns a result, and tells a listener how it goes."""
