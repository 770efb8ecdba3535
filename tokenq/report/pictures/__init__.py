"""Pictures as models see them: pages and files of credit maps."""
