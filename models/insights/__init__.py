"""What a trained model tells of itself: one insight a file."""
