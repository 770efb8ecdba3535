"""What a finished run recorded, read again."""
