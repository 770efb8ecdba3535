"""An audit of data in the terminal and as a page: findings, shortcuts, margins, and suspicious pairs."""
