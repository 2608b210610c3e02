"""The decoder, its heads, and the declaration of every weight."""
