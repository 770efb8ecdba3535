"""What a training needs: its data, models and reference, the machine it runs on, and its folder."""
