"""How the applications speak in a terminal: messages, results and progress, as text in which nothing acts."""
