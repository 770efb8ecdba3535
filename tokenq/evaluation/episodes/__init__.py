"""What read-outs say of whole episodes, turn by turn."""
