"""The recipe: the keys a user may set, how a file is loaded, and the page that documents them."""
