"""A first look at what an encoder sees, before anyone trains: features of pictures and films, and a sheet of them."""
