"""Files, folders and data sets of the hub to rows, each with its place in its source."""
