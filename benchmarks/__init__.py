"""Speed, side by side with what one would use instead: see README.md in this folder."""
