"""Read files, folders and hub data sets as rows, each with its place in its source."""
