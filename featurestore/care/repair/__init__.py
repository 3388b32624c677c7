"""How each kind of object of a feature set is written again, from what is left; `repair` puts it to work."""
