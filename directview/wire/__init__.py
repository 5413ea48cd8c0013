"""What peers say to each other and how it travels: messages, parcels, pickles and links."""
